#include "rewrite/why_apart.h"

namespace spfast {

Reason why_apart(const Replication& replication, NodeId value, NodeId reader, uint32_t group) {
  if (const NodeId writer = replication.changed_before(value, reader); writer != kNone) {
    return {Reason::Kind::kWritten, value, writer, 0, 0};
  }
  if (replication.of(value, group) == Sharing::kOwn) {
    return {Reason::Kind::kRankOwn, value, replication.evidence(value, group), 0, 0};
  }
  return {Reason::Kind::kNotProved, value, kNone, 0, 0};
}

}  // namespace spfast
