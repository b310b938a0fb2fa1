// All_gathers for whoever reads a value of a site in full.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "rewrite/padding.h"
#include "rewrite/uses.h"

namespace spfast {

class Gatherer {
 public:
  Gatherer(PlanBuilder& builder, const Uses& uses, Padding& padding)
      : builder_(builder),
        uses_(uses),
        padding_(padding),
        table_(builder.table),
        sites_(builder.sites) {}
  // One all_gather for everybody outside the sites who reads the value under any alias.
  void gather_outputs(const Site& site, NodeId value);

 private:
  // A value of a site, and everything outside sites that reads it.
  struct Aliases {
    struct Alias {
      NodeId node;
      uint32_t source;              // index of the alias that it is a view or copy of
      bool live = false;            // somebody outside the sites reads it or an alias of it
      std::vector<NodeId> readers;  // outside the sites
    };
    std::vector<Alias> list;                       // [0] is the value itself; sources come first
    std::vector<std::pair<NodeId, NodeId>> sizes;  // (user, alias): asks for a size of it
  };
  // What a reader reads: the value in two dims, or in its own.
  struct Read {
    NodeId reader;
    NodeId alias;
    bool flat;
  };
  struct Reads {
    std::vector<Read> list;       // in graph order
    std::vector<NodeId> dropped;  // aliases that the all_gather stands for
  };

  Aliases collect_aliases(const Site& site, NodeId value);
  [[nodiscard]] bool is_alias_of(const Site& site, NodeId user, NodeId alias, NodeId value) const;
  // Whether the user asks for a size alone that is known without the value.
  [[nodiscard]] bool is_told(const Site& site, NodeId user, NodeId alias);
  // Nothing where the value's size is not known.
  std::optional<Reads> collect_reads(const Site& site, NodeId value, const Aliases& aliases);
  [[nodiscard]] bool is_flat_view(NodeId node, size_t features) const;
  NodeRef gather(const Site& site, NodeId value, NodeId before);
  [[nodiscard]] bool as_bytes(const Site& site, NodeId value);
  NodeRef unflatten(const Site& site, NodeId value, NodeRef flat, NodeId before);

  PlanBuilder& builder_;
  const Uses& uses_;
  Padding& padding_;
  const NodeTable& table_;
  const Sites& sites_;
};

}  // namespace spfast
