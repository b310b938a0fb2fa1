// A test harness of one header. TEST(name) { EXPECT_EQ(...); } registers itself; run_tests() runs
// those whose name holds one of the words on the command line (all, if there is none). A failed
// expectation prints where and what, and the test goes on.
#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace spfast::testing {

struct Case {
  const char* name;
  void (*body)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline bool& current_failed() {
  static bool failed = false;
  return failed;
}

struct Registration {
  Registration(const char* name, void (*body)()) { cases().push_back({name, body}); }
};

inline void report(const char* file, int line, const std::string& message) {
  current_failed() = true;
  std::printf("%s:%d: %s\n", file, line, message.c_str());
}

template <typename T>
std::string show(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return std::to_string(static_cast<long long>(value));
  } else if constexpr (requires(std::ostringstream& out) { out << value; }) {
    std::ostringstream out;
    out << value;
    return out.str();
  } else {
    return "(a value that cannot be printed)";
  }
}

template <typename A, typename B>
void expect_equal(const A& got, const B& wanted, const char* text, const char* file, int line) {
  if (got == wanted) return;
  report(file, line,
         std::string(text) + "\n  got:      " + show(got) + "\n  expected: " + show(wanted));
}

// What `call` throws as an E, in words; empty after a report if it throws nothing or something
// else.
template <typename E>
std::string message_of(const std::function<void()>& call, const char* file, int line) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    report(file, line, std::string("another exception: ") + error.what());
    return {};
  }
  report(file, line, "no exception");
  return {};
}

inline int run_tests(int argc, char** argv) {
  int passed = 0;
  int failed = 0;
  for (const Case& test : cases()) {
    bool wanted = argc < 2;
    for (int i = 1; i < argc; ++i) {
      wanted = wanted || std::string_view(test.name).find(argv[i]) != std::string_view::npos;
    }
    if (!wanted) continue;
    current_failed() = false;
    try {
      test.body();
    } catch (const std::exception& error) {
      report(test.name, 0, std::string("threw: ") + error.what());
    }
    if (current_failed()) std::printf("FAILED %s\n", test.name);
    ++(current_failed() ? failed : passed);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}

}  // namespace spfast::testing

#define TEST(name)                                                                    \
  static void test_##name();                                                          \
  static const ::spfast::testing::Registration registered_##name(#name, test_##name); \
  static void test_##name()
#define EXPECT_EQ(got, wanted) \
  ::spfast::testing::expect_equal((got), (wanted), #got " == " #wanted, __FILE__, __LINE__)
#define EXPECT(condition)             \
  ((condition) ? static_cast<void>(0) \
               : ::spfast::testing::report(__FILE__, __LINE__, "not true: " #condition))
#define EXPECT_THROWS(type, call, message)                                                       \
  ::spfast::testing::expect_equal(                                                               \
      ::spfast::testing::message_of<type>([&] { static_cast<void>(call); }, __FILE__, __LINE__), \
      std::string(message), #call, __FILE__, __LINE__)
