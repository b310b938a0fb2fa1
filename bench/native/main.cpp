// Match and plan alone, without Python: a stack of Llama layers with decomposed norms behind
// functional collectives.
//
//   spfast_bench NODES [REPEATS]
//
// prints the median time a node of each step, and the bytes a node that the table and the results
// take. The work is the same each time, so that one repeat under callgrind counts instructions.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "plans.h"

namespace spfast {
namespace {

using testing::Arg;
using testing::GraphBuilder;
using testing::Node;
using testing::Shape;
using testing::Size;

constexpr int64_t kTokens = 4096;
constexpr int64_t kHidden = 8192;

Node attention(GraphBuilder& b, Node normed, Node weight, Node table) {
  const Shape heads{kTokens, 8, 128};
  const Node fused = b.call("aten.mm.default", {normed, weight}, {kTokens, 3072});
  const Node parts =
      b.call("aten.split_with_sizes.default", {fused, testing::list({1024, 1024, 1024}), -1});
  std::vector<Node> turned;
  for (int i = 0; i < 3; ++i) {
    const Node part = b.call("_operator.getitem", {parts, i}, {kTokens, 1024});
    Node head = b.call("aten.view.default", {part, testing::list({kTokens, 8, 128})}, heads);
    if (i < 2) {
      const Node near = b.call("aten.mul.Tensor", {head, table}, heads);
      const Node far = b.call("aten.neg.default", {head}, heads);
      const Node swapped = b.call("aten.cat.default", {testing::list({far, head}), -1}, heads);
      const Node turn = b.call("aten.mul.Tensor", {swapped, table}, heads);
      head = b.call("aten.add.Tensor", {near, turn}, heads);
    }
    turned.push_back(b.call("aten.transpose.int", {head, 0, 1}, {8, kTokens, 128}));
  }
  const Node mixed = b.call("aten._scaled_dot_product_attention.default",
                            {turned[0], turned[1], turned[2], nullptr, 0.0, true});
  const Node first = b.call("_operator.getitem", {mixed, 0}, {8, kTokens, 128});
  const Node back = b.call("aten.transpose.int", {first, 0, 1}, heads);
  return b.call("aten.view.default", {back, testing::list({kTokens, 1024})}, {kTokens, 1024});
}

Node mlp(GraphBuilder& b, Node normed, Node weight) {
  const Node fused = b.call("aten.mm.default", {normed, weight}, {kTokens, 7168});
  const Node parts = b.call("aten.split.Tensor", {fused, 3584, -1});
  const Node gate = b.call("_operator.getitem", {parts, 0}, {kTokens, 3584});
  const Node up = b.call("_operator.getitem", {parts, 1}, {kTokens, 3584});
  const Node active = b.call("aten.silu.default", {gate}, {kTokens, 3584});
  return b.call("aten.mul.Tensor", {active, up}, {kTokens, 3584});
}

NodeTable llama(uint32_t nodes) {
  const Shape shape{kTokens, kHidden};
  GraphBuilder b;
  const Node norm_weight = b.placeholder("norm", {kHidden});
  const Node matrix = b.placeholder("matrix", {kHidden, kHidden});
  const Node table = b.placeholder("table", {kTokens, 1, 128});
  Node residual = testing::reduce(b, b.placeholder("x", shape), shape);
  Node x = testing::norm(b, residual, norm_weight, shape);
  for (bool attends = true; b.table.size() < nodes; attends = !attends) {
    const Node inner = attends ? attention(b, x, matrix, table) : mlp(b, x, matrix);
    const Node product = b.call("aten.mm.default", {inner, matrix}, shape);
    residual = b.call("aten.add.Tensor", {residual, testing::reduce(b, product, shape)}, shape);
    x = testing::norm(b, residual, norm_weight, shape);
  }
  b.output({x});
  return b.finish();
}

class Steps {
 public:
  explicit Steps(const NodeTable& table) : nodes_(static_cast<double>(table.size())) {}
  template <typename Work>
  void time(size_t step, const Work& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - start;
    times_[step].push_back(taken.count() / nodes_);
  }
  double median(size_t step) {
    auto& all = times_[step];
    std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2),
                     all.end());
    return all[all.size() / 2];
  }

 private:
  double nodes_;
  std::vector<double> times_[2];
};

int run(uint32_t nodes, int repeats) {
  NodeTable table = llama(nodes);
  testing::NothingElse source;
  Steps steps(table);
  size_t sites = 0;
  size_t edits = 0;
  for (int i = 0; i < repeats; ++i) {
    Run run(table, testing::all_rules(), source);
    run.set_groups(testing::groups_of(run, {8, 1}));
    steps.time(0, [&] { run.match({}); });
    steps.time(1, [&] { run.plan([](const TokenClass&) { return Verdict{}; }); });
    sites = run.sites().sites.size();
    edits = run.made().edits.size();
  }
  const double match = steps.median(0);
  const double plan = steps.median(1);
  std::printf("nodes %u sites %zu edits %zu\n", table.size(), sites, edits);
  std::printf("match %.1f ns/node\nplan %.1f ns/node\ntotal %.1f ns/node\n", match, plan,
              match + plan);
  std::printf("table %.1f bytes/node\n", static_cast<double>(table.memory_bytes()) / table.size());
  return 0;
}

}  // namespace
}  // namespace spfast

int main(int argc, char** argv) {
  const long nodes = argc > 1 ? std::atol(argv[1]) : 100000;
  const long repeats = argc > 2 ? std::atol(argv[2]) : 5;
  if (nodes < 1 || nodes > 50000000 || repeats < 1) {
    std::fprintf(stderr, "usage: %s NODES [REPEATS]\n", argv[0]);
    return 2;
  }
  return spfast::run(static_cast<uint32_t>(nodes), static_cast<int>(repeats));
}
