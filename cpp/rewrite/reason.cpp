#include "rewrite/reason.h"

#include "table/operators.h"
#include "table/targets.h"

namespace spfast {

bool asks_too_much(Reason::Kind kind) {
  using Kind = Reason::Kind;
  return kind == Kind::kWholeTuple || kind == Kind::kReshaped || kind == Kind::kCopied ||
         kind == Kind::kResidualShape || kind == Kind::kBroadcast || kind == Kind::kBuffer ||
         kind == Kind::kRankOwn || kind == Kind::kNotProved || kind == Kind::kFormat ||
         kind == Kind::kStrides || kind == Kind::kNoGain;
}

namespace {

// A collective, or what asks for the rank.
bool tells_ranks_apart(const NodeTable& table, NodeId node) {
  if (table.op(node) != Op::kCallFunction) return false;
  const OperatorTraits traits = operator_traits(target_name(table.target(node)));
  return traits.rank || traits.collective != Collective::kNone;
}

// A collective in place is named as one that needs all tokens, not as one that writes.
bool writes_in_place(const NodeTable& table, NodeId node) {
  return table.op(node) == Op::kCallFunction && (table.flags(node) & target_flag::kMutates) != 0 &&
         target_name(table.target(node)).starts_with("aten.");
}

// Whether ranks that have the same get another one each. All others leave them alike: what shows
// that a value was a rank's own may stand before another value that is computed from it.
bool sets_ranks_apart(const NodeTable& table, NodeId node) {
  const OperatorTraits traits = operator_traits(target_name(table.target(node)));
  return traits.rank || traits.collective == Collective::kReduceScatter ||
         traits.collective == Collective::kAllToAll;
}

}  // namespace

std::string format_reason(const NodeTable& table, std::span<const GroupInfo> groups,
                          std::span<const TokenClass> classes, const Reason& reason) {
  const auto label = [&](NodeId node) { return "%" + table.node_label(node); };
  const auto shape = [&](NodeId node) { return table.format_dims(table.dims(table.meta(node))); };
  const auto call = [&](NodeId node) {
    return label(node) + " = " + target_name(table.target(node));
  };
  switch (reason.kind) {
    case Reason::Kind::kNone:
      return {};
    case Reason::Kind::kGroup:
      return groups[reason.a].problem;
    case Reason::Kind::kIndivisible:
      return std::to_string(reason.a) + " tokens are not divisible by tp_size " +
             std::to_string(groups[reason.b].size);
    case Reason::Kind::kRefusedClass:
      return classes[reason.a].refused;
    case Reason::Kind::kUnknownSize:
      return "the size of " + label(reason.node) + " is not known: it has no meta[\"val\"]";
    case Reason::Kind::kFence:
      return call(reason.node) + " writes to memory or changes the stream between the all_reduce " +
             "and the end of the site";
    case Reason::Kind::kWritten:
      return call(reason.other) + " writes in place to " + label(reason.node);
    case Reason::Kind::kWholeTuple:
      return call(reason.other) + " reads the tuple " + label(reason.node) + " whole";
    case Reason::Kind::kReshaped:
      return call(reason.node) + " mixes tokens and features of " + label(reason.other) + " " +
             shape(reason.other);
    case Reason::Kind::kCopied:
      return call(reason.node) + " changes the size or dtype of what it copies";
    case Reason::Kind::kResidualShape:
      return "residual " + label(reason.node) + " has shape " + shape(reason.node) + ", " +
             label(reason.other) + " has shape " + shape(reason.other);
    case Reason::Kind::kBroadcast:
      return "operand " + label(reason.node) + " has shape " + shape(reason.node) +
             " and is not the same for every token";
    case Reason::Kind::kBuffer:
      return call(reason.node) + " is not a buffer that can be made smaller";
    case Reason::Kind::kFlattened:
      return label(reason.node) + " has shape " + shape(reason.node) + " and no token dim";
    case Reason::Kind::kFormat:
      return call(reason.node) + " asks for a memory format for more dims than a shard has";
    case Reason::Kind::kStrides:
      return call(reason.node) + " reads " + label(reason.other) + " with strides " +
             table.format_dims(table.strides(table.meta(reason.other))) +
             ", which an all_gather does not keep";
    case Reason::Kind::kFeatures:
      return label(reason.node) + " " + shape(reason.node) +
             " has no features, or a symbolic number";
    case Reason::Kind::kLeadingDims:
      return "nothing in the graph tells the leading dims of " + label(reason.node) + " " +
             shape(reason.node);
    case Reason::Kind::kOtherTokens:
      return call(reason.node) + " reads " + label(reason.other) + " " + shape(reason.other) +
             ", which has rows of other tokens";
    case Reason::Kind::kStream:
      return "the stream changes between " + label(reason.other) + " and " + call(reason.node) +
             ", which reads it";
    case Reason::Kind::kBlocks: {
      const TokenClass& one = classes[reason.b];
      return call(reason.node) + " lays its result out in blocks of " + std::to_string(reason.a) +
             " tokens, and a rank's share of " + table.format_dims({&one.tokens, 1}) +
             " is not known to be whole blocks";
    }
    case Reason::Kind::kQuantised:
      return call(reason.node) + " quantises it, and quantised values are not to be gathered";
    case Reason::Kind::kNeedsAll:
      if (writes_in_place(table, reason.node)) {
        return call(reason.node) + " reads it and writes to memory in place";
      }
      return call(reason.node) + " reads it and needs all tokens";
    case Reason::Kind::kUnread:
      return "nobody reads " + label(reason.node);
    case Reason::Kind::kRankOwn:
      if (!tells_ranks_apart(table, reason.other)) {
        return label(reason.node) + " is this rank's own, as a graph that calls this one or that " +
               "this one calls shows, and would be read beside shards";
      }
      return label(reason.node) + " is this rank's own, as " + call(reason.other) +
             (reason.other <= reason.node && sets_ranks_apart(table, reason.other)
                  ? " gives each rank another one"
                  : " over all ranks shows") +
             ", and would be read beside shards";
    case Reason::Kind::kRankPart:
      return call(reason.node) + " takes a part of every row, each rank another one, as " +
             call(reason.other) + " over all ranks shows";
    case Reason::Kind::kNotProved:
      return label(reason.node) + " is not proved to be the same on every rank, " +
             "and config.replicated does not let it be taken on trust";
    case Reason::Kind::kNoGain:
      return "gathering what is computed from it would move more bytes than its all_reduce does, "
             "or as many in more collectives";
    case Reason::Kind::kDim:
      return call(reason.node) + " reduces a dim of " + label(reason.other) + " " +
             shape(reason.other) + " that is not its last";
  }
  return {};
}

}  // namespace spfast
