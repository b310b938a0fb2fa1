// The work of a plan against the size of its graph, for many shapes of graphs: counted, so that it
// is the same on every machine.
#include <cmath>
#include <functional>
#include <map>
#include <string>

#include "base/work.h"
#include "harness.h"
#include "plan_check.h"
#include "plans.h"

namespace spfast::testing {
namespace {

const Shape kGrowthShape{8, 16};
const Shape kNarrow{8, 1};
const Shape kDeep3{2, 4, 16};

// A graph in the making, and how many nodes it is to have, about.
struct Sketch {
  GraphBuilder b;
  Node x = b.placeholder("x", kGrowthShape);
  std::vector<Arg> out;
  int n = 0;

  Node reduced(Node value, const Shape& shape = kGrowthShape, const std::string& group = "tp") {
    return b.call(kIrReduce, {value, group}, shape);
  }
  Node relu(Node value, const Shape& shape = kGrowthShape) {
    return b.call("aten.relu.default", {value}, shape);
  }
  Node add(Node one, Node other, const Shape& shape = kGrowthShape) {
    return b.call("aten.add.Tensor", {one, other}, shape);
  }
  Node mul(Node one, Node other, const Shape& shape) {
    return b.call("aten.mul.Tensor", {one, other}, shape);
  }
  // Needs all tokens.
  Node whole(Node value, const Shape& shape = kGrowthShape) {
    return b.call("aten.cumsum.default", {value, 0}, shape);
  }
  Node mean(Node value, const Shape& shape = kNarrow) {
    return b.call("aten.mean.dim", {value, list({-1}), true}, shape);
  }
  Node norm(Node value, Node weight) {
    return b.call(kIrNorm, {value, weight, 1e-5}, kGrowthShape);
  }
  Node name(Node value, const Shape& shape = kGrowthShape) {
    return b.call("aten.alias.default", {value}, shape);
  }
  Node view(Node value, const std::vector<int>& sizes) {
    std::vector<Arg> items;
    Shape shape;
    for (const int size : sizes) {
      items.emplace_back(size);
      shape.emplace_back(size);
    }
    return b.call("aten.view.default", {value, list(items)}, shape);
  }
  void give(Node value) { out.emplace_back(value); }
};

using Draw = void (*)(Sketch&);

const std::map<std::string, Draw>& shapes() {
  static const std::map<std::string, Draw> all{
      {"a chain",
       [](Sketch& g) {
         Node a = g.reduced(g.x);
         for (int i = 0; i < g.n; ++i) a = g.relu(a);
         g.give(a);
       }},
      {"a chain, each value needed whole",
       [](Sketch& g) {
         Node a = g.reduced(g.x);
         for (int i = 0; i < g.n / 2; ++i) g.give(g.whole(a = g.relu(a)));
       }},
      {"a chain of wide values with narrow ends",
       [](Sketch& g) {
         const Shape wide{8, 4096};
         Node a = g.reduced(g.b.placeholder("wide", wide), wide);
         for (int i = 0; i < g.n / 3; ++i) {
           a = g.relu(a, wide);
           g.give(g.whole(g.mean(a), kNarrow));
         }
       }},
      {"sums with any earlier value",
       [](Sketch& g) {
         std::vector<Node> pool{g.reduced(g.x)};
         uint32_t random = 1;
         for (int i = 0; i < g.n; ++i) {
           random = random * 1664525U + 1013904223U;
           pool.push_back(g.add(pool.back(), pool[(random >> 8U) % pool.size()]));
         }
         g.give(pool.back());
       }},
      {"a lattice with narrow ends",
       [](Sketch& g) {
         std::vector<Node> row(10, g.reduced(g.x));
         for (size_t i = 0; i < static_cast<size_t>(g.n) / 30; ++i) {
           std::vector<Node> next;
           std::vector<Node> means;
           for (size_t j = 0; j < 10; ++j) next.push_back(g.add(row[j], row[(j + 1 + i) % 10]));
           for (const Node one : next) means.push_back(g.mean(one));
           g.give(g.whole(means[i % 10], kNarrow));
           for (size_t j = 0; j < 10; ++j) row[j] = g.add(next[j], means[(j + 1) % 10]);
         }
       }},
      {"a sum of many all_reduces",
       [](Sketch& g) {
         Node a = g.reduced(g.x);
         for (int i = 0; i < g.n / 3; ++i) {
           a = g.add(a, g.reduced(g.x));
           if (i % 7 == 3) g.give(g.whole(g.mean(a), kNarrow));
         }
         g.give(a);
       }},
      {"a residual a site",
       [](Sketch& g) {
         const Node w = g.b.placeholder("w", {16});
         const Node shared = g.b.placeholder("shared", kGrowthShape);
         for (int i = 0; i < g.n / 5; ++i) {
           const Node own = g.b.placeholder("own", kGrowthShape);
           g.give(g.norm(g.add(g.add(g.reduced(g.x), own), shared), w));
         }
       }},
      {"sites that stay",
       [](Sketch& g) {
         for (int i = 0; i < g.n / 2; ++i) g.give(g.whole(g.reduced(g.x)));
       }},
      {"a group a site",
       [](Sketch& g) {
         for (int i = 0; i < g.n / 2; ++i) {
           g.give(g.relu(g.reduced(g.x, kGrowthShape, std::to_string(i))));
         }
       }},
      {"a sum over a group a site",
       [](Sketch& g) {
         Node a = g.reduced(g.x);
         for (int i = 0; i < g.n / 2; ++i) {
           a = g.add(a, g.reduced(g.x, kGrowthShape, std::to_string(i)));
         }
         g.give(a);
       }},
      {"two groups in turns",
       [](Sketch& g) {
         Node a = g.reduced(g.x);
         for (int i = 0; i < g.n / 2; ++i) {
           a = g.add(a, g.reduced(g.x, kGrowthShape, std::to_string(i % 2)));
           if (i % 5 == 2) a = g.whole(a);
         }
         g.give(a);
       }},
      {"many narrow readers of one value",
       [](Sketch& g) {
         const Node a = g.reduced(g.x);
         for (int i = 0; i < g.n / 2; ++i) g.give(g.mean(g.relu(a)));
       }},
      {"one cat of many parts",
       [](Sketch& g) {
         const Node a = g.reduced(g.x);
         std::vector<Arg> parts;
         for (int i = 0; i < g.n; ++i) parts.emplace_back(g.relu(a));
         g.give(g.b.call("aten.cat.default", {list(parts), 1}, {8, 16 * g.n}));
       }},
      {"one cat of many names",
       [](Sketch& g) {
         const Node a = g.relu(g.reduced(g.x));
         std::vector<Arg> parts;
         for (int i = 0; i < g.n; ++i) parts.emplace_back(g.name(a));
         g.give(g.mean(g.b.call("aten.cat.default", {list(parts), 1}, {8, 16 * g.n})));
       }},
      {"one split into many parts",
       [](Sketch& g) {
         const Shape wide{8, g.n / 2};
         const Node a = g.reduced(g.b.placeholder("wide", wide), wide);
         const Node parts = g.b.call("aten.split.Tensor", {g.relu(a, wide), 1, -1});
         g.b.set_parts(parts, std::vector<Shape>(static_cast<size_t>(g.n / 2), kNarrow));
         Node sum;
         for (int i = 0; i < g.n / 2; ++i) {
           const Node part = g.b.call("_operator.getitem", {parts, i}, kNarrow);
           sum = i == 0 ? part : g.add(sum, part, kNarrow);
         }
         g.give(sum);
       }},
      {"a chain of views",
       [](Sketch& g) {
         Node a = g.reduced(g.x);
         for (int i = 0; i < g.n; ++i) a = g.view(a, {8, 16});
         g.give(g.relu(a));
       }},
      {"a chain of views of all widths",
       [](Sketch& g) {
         Node a = g.reduced(g.x);
         for (int i = 0; i < g.n / 3; ++i) {
           a = g.view(g.view(g.view(a, {2, 4, 16}), {8, 4, 4}), {8, 16});
         }
         g.give(g.relu(a));
       }},
      {"names and views in turns, each read",
       [](Sketch& g) {
         Node a = g.reduced(g.x);
         for (int i = 0; i < g.n / 4; ++i) {
           a = g.view(g.name(a), {8, 16});
           g.give(g.mean(g.relu(a)));
         }
       }},
      {"unsqueezed and squeezed names, each read",
       [](Sketch& g) {
         Node a = g.relu(g.reduced(g.x));
         for (int i = 0; i < g.n / 4; ++i) {
           a = g.b.call("aten.unsqueeze.default", {a, 0}, {1, 8, 16});
           a = g.b.call("aten.squeeze.dim", {a, 0}, kGrowthShape);
           g.give(g.mean(g.relu(a)));
         }
       }},
      {"names of a residual, each of a site",
       [](Sketch& g) {
         const Node w = g.b.placeholder("w", {16});
         Node residual = g.b.placeholder("residual", kGrowthShape);
         for (int i = 0; i < g.n / 4; ++i) {
           residual = g.name(residual);
           g.give(g.norm(g.add(g.reduced(g.x), residual), w));
         }
       }},
      {"views before an all_reduce, each reduced",
       [](Sketch& g) {
         Node a = g.b.placeholder("deep", kDeep3);
         for (int i = 0; i < g.n / 3; ++i) {
           a = g.view(a, {2, 4, 16});
           g.give(g.mean(g.reduced(a, kDeep3), {2, 4, 1}));
         }
       }},
      {"a width a site, and names of each",
       [](Sketch& g) {
         for (int i = 1; i <= g.n / 5; ++i) {
           const Shape shape{8, i};
           const Node a = g.reduced(g.b.placeholder("y", shape), shape);
           g.give(g.mean(g.name(g.name(a, shape), shape)));
         }
       }},
      {"a write a site",
       [](Sketch& g) {
         for (int i = 0; i < g.n / 4; ++i) {
           const Node a = g.relu(g.reduced(g.x));
           g.b.call("aten.copy_.default", {g.b.placeholder("buffer", kGrowthShape), a});
           g.give(a);
         }
       }},
      {"all values of a chain, summed from the last on",
       [](Sketch& g) {
         std::vector<Node> values{g.reduced(g.x)};
         for (int i = 0; i < g.n / 2; ++i) values.push_back(g.relu(values.back()));
         Node sum = values.back();
         for (size_t i = values.size() - 1; i-- > 0;) sum = g.add(sum, values[i]);
         g.give(sum);
       }},
      {"buffers that one region fills",
       [](Sketch& g) {
         Node a = g.relu(g.reduced(g.x));
         for (int i = 0; i < g.n / 2; ++i) {
           const Node buffer = g.b.call("aten.empty.memory_format", {list({8, 16})}, kGrowthShape);
           a = g.b.call("test.into_buffer.default", {}, kGrowthShape, {{"x", a}, {"out", buffer}});
         }
         g.give(a);
       }},
      {"gates, each with a row a sample",
       [](Sketch& g) {
         Node a = g.reduced(g.b.placeholder("deep", kDeep3), kDeep3);
         for (int i = 0; i < g.n / 2; ++i) {
           a = g.mul(a, g.b.placeholder("gate", {2, 1, 16}), kDeep3);
         }
         g.give(g.mean(a, {2, 4, 1}));
       }},
      {"one gate of many values",
       [](Sketch& g) {
         const Node gate = g.b.placeholder("gate", {1, 1, 16});
         Node a = g.reduced(g.b.placeholder("deep", kDeep3), kDeep3);
         for (int i = 0; i < g.n; ++i) a = g.mul(a, gate, kDeep3);
         g.give(g.mean(a, {2, 4, 1}));
       }},
  };
  return all;
}

struct Work {
  double steps;
  double nodes;
};

Work work_of(Draw draw, int size) {
  const Rules& rules = all_rules();
  Sketch g;
  g.n = size;
  draw(g);
  g.b.output(g.out);
  NodeTable table = g.b.finish();
  const double nodes = table.size();
  const uint64_t before = work_done;
  const Planned planned = plan_with(std::move(table), rules, {.options = {.rowwise = true}});
  const auto steps = static_cast<double>(work_done - before);
  EXPECT(planned.missing.empty());
  if (size <= 2000) EXPECT_EQ(check_plan(planned.table, planned.plan), "");
  return {steps, nodes};
}

TEST(growth_of_every_shape_is_linear) {
  EXPECT(shapes().size() >= 20U);
  for (const auto& [what, draw] : shapes()) {
    const Work small = work_of(draw, 2000);
    const Work large = work_of(draw, 64000);
    EXPECT(small.steps > 0);
    const double exponent =
        std::log(large.steps / small.steps) / std::log(large.nodes / small.nodes);
    const std::string said = what + " grows with the exponent " + std::to_string(exponent);
    if (!(exponent <= 1.1)) EXPECT_EQ(said, "");
  }
}

}  // namespace
}  // namespace spfast::testing
