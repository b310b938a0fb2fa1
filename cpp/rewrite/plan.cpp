#include "rewrite/plan.h"

#include "table/targets.h"

namespace spfast {
namespace {

class Formatter {
 public:
  Formatter(const NodeTable& table, const Plan& plan) : table_(table), plan_(plan) {}

  [[nodiscard]] std::string line(const Edit& edit) const {
    switch (edit.kind) {
      case Edit::Kind::kCreate: {
        const Created& made = plan_.created[edit.a];
        std::string text =
            "create " + ref(table_.size() + edit.a) + " = " + target_name(made.target) + "(";
        for (size_t i = 0; i < made.args.size(); ++i) {
          if (i > 0) text += ", ";
          text += arg(made.args[i]);
        }
        for (const auto& [name, value] : made.kwargs) text += ", " + name + "=" + arg(value);
        if (made.contiguous) text += ", memory_format=torch.contiguous_format";
        return text + ") " + meta(made.meta) + " before " + ref(made.before);
      }
      case Edit::Kind::kRewire:
        return "rewire " + ref(edit.a) + ": " + ref(edit.b) + " -> " + ref(edit.c);
      case Edit::Kind::kSetDim:
        return "set " + ref(edit.a) + ": argument " + std::to_string(edit.b) +
               (edit.c == kNone ? " -> -1" : " -> from the back of " + std::to_string(edit.c));
      case Edit::Kind::kResize:
        return "resize " + ref(edit.a) + " " + meta(plan_.metas[edit.b]);
      case Edit::Kind::kMove:
        return "move " + ref(edit.a) + " before " + ref(edit.b);
      case Edit::Kind::kErase:
        return "erase " + ref(edit.a);
    }
    return {};
  }

 private:
  [[nodiscard]] std::string ref(NodeRef node) const {
    if (node < table_.size()) return "%" + table_.node_label(node);
    return "%new_" + std::to_string(node - table_.size());
  }
  // Lists hold no further lists, so this goes one level deep.
  [[nodiscard]] std::string arg(const PlanArg& value) const {
    switch (value.kind) {
      case PlanArg::Kind::kNode:
        return ref(value.node);
      case PlanArg::Kind::kInt:
        return std::to_string(value.value);
      case PlanArg::Kind::kDtype:
        return value.node == kNone ? "torch.uint8" : "dtype of " + ref(value.node);
      case PlanArg::Kind::kCopy:
        return table_.format_value(table_.args(value.node)[static_cast<size_t>(value.value)]);
      case PlanArg::Kind::kInts: {
        std::string text = "[";
        for (const PlanArg& item : value.items) {
          if (text.size() > 1) text += ", ";
          text += arg(item);
        }
        return text + "]";
      }
      case PlanArg::Kind::kGiven:
        return "given " + std::to_string(value.value);
      case PlanArg::Kind::kText:
        return "'" + std::string(table_.string(static_cast<uint32_t>(value.value))) + "'";
    }
    return {};
  }
  [[nodiscard]] std::string meta(const MetaSpec& spec) const {
    if (spec.like == kNone) return "of its own";
    const std::string like = " like " + ref(spec.like);
    switch (spec.form) {
      case MetaSpec::Form::kLocal:
        return "local" + like;
      case MetaSpec::Form::kGathered:
        return "gathered" + like;
      case MetaSpec::Form::kLocalBytes:
        return "local bytes" + like;
      case MetaSpec::Form::kGatheredBytes:
        return "gathered bytes" + like;
      case MetaSpec::Form::kOne:
        return "one row" + like;
      case MetaSpec::Form::kOwn:
        return "own rows" + like;
      case MetaSpec::Form::kSpread:
        return "spread" + like;
      case MetaSpec::Form::kFresh:
        return "fresh local" + like;
      case MetaSpec::Form::kPart:
        return "part" + like;
      case MetaSpec::Form::kTotal:
        return "total" + like;
      case MetaSpec::Form::kFlat:
        return "flat" + like;
      case MetaSpec::Form::kSame:
        return "full" + like;
      case MetaSpec::Form::kPadded:
        return "padded" + like;
      case MetaSpec::Form::kCut:
        return "cut" + like;
      case MetaSpec::Form::kTokens:
        return spec.factor == 0 ? "tokens" : "tokens + " + std::to_string(spec.factor);
      case MetaSpec::Form::kMissing:
        return "missing rows";
      case MetaSpec::Form::kLocalSize:
        return "local size";
      case MetaSpec::Form::kScaled:
        return std::to_string(spec.factor) + " * local size";
      case MetaSpec::Form::kDimSize:
        return "size " + std::to_string(spec.factor) + " of " + ref(spec.like);
    }
    return {};
  }

  const NodeTable& table_;
  const Plan& plan_;
};

}  // namespace

std::string format_plan(const NodeTable& table, const Plan& plan) {
  const Formatter formatter(table, plan);
  std::string text;
  for (const Edit& edit : plan.edits) text += formatter.line(edit) + "\n";
  return text;
}

}  // namespace spfast
