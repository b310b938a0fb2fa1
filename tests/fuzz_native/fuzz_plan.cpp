// A run over any table, as users have it: whatever it plans, carried out on paper, is sound.
#include <cstdio>
#include <cstdlib>

#include "decode.h"
#include "plan_check.h"
#include "plans.h"

using namespace spfast;
using namespace spfast::testing;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes in(data, size);
  const bool rowwise = in.flag();
  const int64_t ranks = 1 + in.below(4);
  const Ranks group{ranks, static_cast<int64_t>(in.below(static_cast<uint32_t>(ranks)))};
  NodeTable table = TableFuzzer(in, 300, rowwise).run();
  // Who is asked may give another answer each time.
  const Run::Decide decide = [&](const TokenClass&) {
    const uint32_t chosen = in.below(8);
    return Verdict{chosen == 1 ? "refused" : "", chosen > 5};
  };
  const Planned planned =
      plan_with(std::move(table), all_rules(),
                {.ranks = group, .decide = decide, .options = {.rowwise = rowwise}});
  for (size_t i = 0; i < planned.sites.sites.size(); ++i) (void)planned.reason(i);
  const std::string text = planned.text();
  const std::string error = check_plan(planned.table, planned.plan);
  if (!error.empty()) {
    std::fprintf(stderr, "%s\n%s", error.c_str(), text.c_str());
    for (NodeId node = 0; node < planned.table.size(); ++node) {
      std::fprintf(stderr, "%u = %s(", node, target_name(planned.table.target(node)).c_str());
      for (const Argument value : planned.table.args(node)) {
        std::fprintf(stderr, "%s, ", planned.table.format_value(value).c_str());
      }
      const Meta& meta = planned.table.meta(node);
      std::fprintf(stderr, ") %s\n", planned.table.format_dims(planned.table.dims(meta)).c_str());
    }
    std::abort();
  }
  return 0;
}
