// The planner over any table: whatever it plans, carried out on paper, is sound.
#include <cstdio>
#include <cstdlib>

#include "decode.h"
#include "plan_check.h"
#include "plans.h"

using namespace spfast;
using namespace spfast::testing;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes in(data, size);
  static const ProgramSet programs = all_programs();
  static const RowRules row_wise = row_rules();
  const RowRules* rows = in.flag() ? &row_wise : nullptr;
  const int64_t ranks = 1 + in.below(4);
  const Ranks group{ranks, static_cast<int64_t>(in.below(static_cast<uint32_t>(ranks)))};
  NodeTable table = TableFuzzer(in, 300, rows != nullptr).run();
  std::vector<GroupInfo> groups = groups_of(table, group);
  Meta missing;
  missing.kind = MetaKind::kMissing;
  // As the pass does: what it asks for and nobody knows, it is told to be unknown.
  const uint32_t unknown = table.add_meta(missing);
  Planned planned = plan_with(std::move(table), groups, programs, {}, rows);
  for (int round = 0; !planned.missing.empty() && round < 50; ++round) {
    bool asked = false;
    for (const NodeId node : planned.missing) {
      asked = asked || planned.table.meta(node).kind == MetaKind::kUnknown;
      planned.table.set_meta(node, unknown);
    }
    if (!asked) break;
    NodeTable again = std::move(planned.table);
    planned = plan_with(std::move(again), groups, programs, {}, rows);
  }
  for (size_t i = 0; i < planned.sites.sites.size(); ++i) (void)planned.reason(i);
  const std::string text = planned.text();
  const std::string error = check_plan(planned.table, planned.plan);
  if (!error.empty()) {
    std::fprintf(stderr, "%s\n%s", error.c_str(), text.c_str());
    for (NodeId node = 0; node < planned.table.size(); ++node) {
      std::fprintf(stderr, "%u = %s(", node, target_name(planned.table.target(node)).c_str());
      for (const Value value : planned.table.args(node)) {
        std::fprintf(stderr, "%s, ", planned.table.format_value(value).c_str());
      }
      const Meta& meta = planned.table.meta(node);
      std::fprintf(stderr, ") %s\n", planned.table.format_dims(planned.table.dims(meta)).c_str());
    }
    std::abort();
  }
  return 0;
}
