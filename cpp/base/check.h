// base/: what every room may use. Errors come in two tiers: bad input from a user is a UserError (a
// ValueError in Python) that says what was expected and what was got; a broken invariant of ours is
// an InternalError with the file and line to report. Depends on the standard library alone.
#pragma once

#include <stdexcept>
#include <string>

namespace spfast {

struct UserError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A file that is not a table, is cut short, damaged, or of a newer version.
struct FileFormatError : UserError {
  using UserError::UserError;
};

struct InternalError : std::logic_error {
  using std::logic_error::logic_error;
};

[[noreturn]] inline void fail_internal(const char* what, const char* file, int line) {
  throw InternalError(std::string("broken invariant: ") + what + " (" + file + ":" +
                      std::to_string(line) + "); please report it");
}

}  // namespace spfast

#define SPFAST_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::spfast::fail_internal(#condition, __FILE__, __LINE__))
