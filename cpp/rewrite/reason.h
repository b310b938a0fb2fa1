// Why a site stays as it is. Recorded as data, formatted only when somebody reads it.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "rewrite/collectives.h"
#include "rewrite/group_info.h"
#include "rewrite/plan.h"

namespace spfast {

struct Reason {
  enum class Kind : uint8_t {
    kNone,           // the site is rewritten
    kGroup,          // a: index of the group
    kIndivisible,    // a: tokens, b: index of the group
    kRefusedClass,   // a: index of the token class
    kUnknownSize,    // node: whose size is not known
    kFence,          // node: what the site would reach behind
    kWritten,        // node: a value of the site, other: who writes to it
    kWholeTuple,     // node: a tuple, other: who reads it whole
    kReshaped,       // node: a view in the site that mixes tokens and features, other: its source
    kCopied,         // node: a copy that changes sizes or dtype
    kResidualShape,  // node: a residual that has other rows than the stream
    kBroadcast,      // node: an operand that has rows of its own
    kBuffer,         // node: a buffer that is not made by an operator we can resize
    kFlattened,      // node: a value of the site without a token dim
    kDim,            // node: reduces a dim of other that is not its last
    kFormat,         // node: asks for a memory format that a shard can not have
    kStrides,        // node: who reads other, whose strides a gathered value would not have
    kFeatures,       // node: a value of no or a symbolic number of features
    kLeadingDims,    // node: a value whose leading dims nothing in the graph tells
    kOtherTokens,    // node: an operator, other: an operand with rows of other tokens
    kStream,         // node: runs on another stream than other, which it reads
    kBlocks,         // node: an operator whose result lies in blocks of a tokens, b: token class
    kQuantised,      // node: a quantised value, which is not to be sharded
    kNeedsAll,       // node: who reads the reduced value and needs all tokens
    kUnread,         // node: a reduced value that nobody reads
    kRankPart,       // node: it takes a part of every row, other: the collective that tells
    kRankOwn,        // node: a value that one rank alone has, other: the collective that tells
    kNotProved,      // node: a value of which nothing says that all ranks have the same
    kNoGain,         // what the row-wise view would gather is no less than the all_reduce moves
  };
  Kind kind = Kind::kNone;
  NodeId node = kNone;
  NodeId other = kNone;
  uint64_t a = 0;
  uint64_t b = 0;
  [[nodiscard]] bool empty() const { return kind == Kind::kNone; }
};

// A rule asks for what the row-wise view does without.
[[nodiscard]] bool asks_too_much(Reason::Kind kind);

[[nodiscard]] std::string format_reason(const NodeTable& table, std::span<const GroupInfo> groups,
                                        std::span<const TokenClass> classes, const Reason& reason);

}  // namespace spfast
