#include "clouds/error.hpp"

namespace clouds {

Error::Error(const std::string& message, std::string hint)
    : std::runtime_error(hint.empty() ? message : message + "\n  hint: " + hint),
      message_(message),
      hint_(std::move(hint)) {}
Error::Error(const Error&) = default;
Error& Error::operator=(const Error&) = default;
Error::~Error() = default;

}  // namespace clouds
