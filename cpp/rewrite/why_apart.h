// The reason why a value may not be read beside shards.
#pragma once

#include "rewrite/reason.h"
#include "rewrite/replication.h"

namespace spfast {

// Why a reader may not read a value beside shards, where it may not.
[[nodiscard]] Reason why_apart(const Replication& replication, NodeId value, NodeId reader,
                               uint32_t group);

}  // namespace spfast
