// Answers the core's questions from the graph's nodes.
#pragma once

#include "fx/encode.h"
#include "rewrite/meta_source.h"

namespace spfast::fx {

// The core runs without the interpreter's lock; each question takes it.
class GraphMetas : public MetaSource {
 public:
  explicit GraphMetas(EncodedGraph& graph) : graph_(graph) {}
  void read_metas(NodeTable& table, std::span<const NodeId> wanted) override;
  void read_names(NodeTable& table) override;

 private:
  EncodedGraph& graph_;  // its table is the one that is asked for
};

}  // namespace spfast::fx
