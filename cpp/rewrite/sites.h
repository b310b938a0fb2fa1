// What is sharded together: the sites of a graph, and what each of their nodes reads.
#pragma once

#include <algorithm>
#include <map>
#include <vector>

#include "rewrite/plan.h"
#include "rewrite/reason.h"
#include "rewrite/row_layout.h"

namespace spfast {

// One operand of an interior node that has to become local.
struct SiteOperand {
  enum class Kind : uint8_t {
    kStream,
    kRows,
    kSame,    // the same for every token, in more leading dims than a shard has
    kSpread,  // a row for several tokens
    kBuffer,
  };
  Kind kind = Kind::kStream;
  NodeId user = kNone;
  NodeId alias = kNone;  // as the user reads it
  NodeId root = kNone;   // the value behind its views and copies
  uint8_t features = 1;  // last dims of it that belong to one token
};

// What is rewritten together: an all_reduce with the operations of its match, an all_reduce that
// the row-wise view took, or the row-wise operations between such (`scatters` is false then, and
// the anchor only an example).
struct Site {
  uint32_t match = kNone;  // kNone: row-wise
  uint32_t anchor = 0;     // index into the anchors
  bool scatters = true;
  uint32_t token_class = 0;
  bool flat = false;             // the stream has more than two dims and is flattened
  bool views = false;            // some operand is read through a view
  bool strided = false;          // some value may have strides other than the usual
  std::vector<NodeId> interior;  // in graph order; without the reduced value
  std::vector<SiteOperand> operands;
  Reason reason;
};

// A value that leaves the graph as this rank's rows: who called it gathers them.
struct LocalOutput {
  NodeId output = kNone;
  NodeId value = kNone;
  friend bool operator==(const LocalOutput&, const LocalOutput&) = default;
};

struct Sites {
  std::vector<Site> sites;  // one for each match; then the row-wise ones
  std::vector<TokenClass> classes;
  std::vector<LocalOutput> local_outputs;
  bool gather_bytes = false;           // collectives take no float8: it is gathered as bytes
  RowLayout layout;                    // of what the row-wise view reached
  std::map<NodeId, Reason> not_grown;  // why operators that it knows end its regions, where not all
                                       // tokens are needed
  std::vector<NodeId> missing;         // values whose meta is needed; ask again when it is there

  // How many all_reduces are rewritten.
  [[nodiscard]] size_t rewritten() const {
    return static_cast<size_t>(std::count_if(sites.begin(), sites.end(), [](const Site& site) {
      return site.scatters && site.reason.empty();
    }));
  }
  [[nodiscard]] bool leaves_as_rows(NodeId user, NodeId value) const {
    return std::find(local_outputs.begin(), local_outputs.end(), LocalOutput{user, value}) !=
           local_outputs.end();
  }
};

}  // namespace spfast
