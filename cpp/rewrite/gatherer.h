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
  Gatherer(Draft& draft, const Uses& uses, Padding& padding)
      : draft_(draft), uses_(uses), padding_(padding), table_(draft.table), sites_(draft.sites) {}
  // One all_gather for everybody outside the sites who reads the value under any name.
  void gather_outputs(const Site& site, NodeId value);

 private:
  // A value of a site, and everything outside sites that reads it.
  struct Names {
    struct Name {
      NodeId node;
      uint32_t source;              // index of the name that it is a view or copy of
      bool live = false;            // somebody outside the sites reads it or a name of it
      std::vector<NodeId> readers;  // outside the sites
    };
    std::vector<Name> list;                        // [0] is the value itself; sources come first
    std::vector<std::pair<NodeId, NodeId>> sizes;  // (user, name): asks for a size of it
  };
  // What a reader reads: the value in two dims, or in its own.
  struct Read {
    NodeId reader;
    NodeId name;
    bool flat;
  };
  struct Reads {
    std::vector<Read> list;       // in graph order
    std::vector<NodeId> dropped;  // names that the all_gather stands for
  };

  Names collect_names(const Site& site, NodeId value);
  [[nodiscard]] bool is_name_of(const Site& site, NodeId user, NodeId name, NodeId value) const;
  // Whether the user asks for a size alone that is known without the value.
  [[nodiscard]] bool is_told(const Site& site, NodeId user, NodeId name);
  // Nothing where the value's size is not known.
  std::optional<Reads> collect_reads(const Site& site, NodeId value, const Names& names);
  [[nodiscard]] bool is_flat_view(NodeId node, size_t features) const;
  NodeRef gather(const Site& site, NodeId value, NodeId before);
  [[nodiscard]] bool as_bytes(const Site& site, NodeId value);
  NodeRef unflatten(const Site& site, NodeId value, NodeRef flat, NodeId before);

  Draft& draft_;
  const Uses& uses_;
  Padding& padding_;
  const NodeTable& table_;
  const Sites& sites_;
};

}  // namespace spfast
