// The one error that the library throws.
#pragma once

#include <stdexcept>
#include <string>

#include "clouds/api.h"

namespace clouds {

// What is wrong, and what to do about it; the same words as in Python where the same thing is wrong.
class CLOUDS_API Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, std::string hint = "");
  Error(const Error&);
  Error& operator=(const Error&);
  ~Error() override;

  // What is wrong and where, naming the file, key or value.
  const std::string& message() const noexcept { return message_; }
  // What to do about it; may be a command to type. May be empty.
  const std::string& hint() const noexcept { return hint_; }

 private:
  std::string message_;
  std::string hint_;
};

}  // namespace clouds
