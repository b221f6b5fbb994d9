#include "interpolate.hpp"

#include <algorithm>
#include <cstddef>

namespace clouds {

Between::Between(int in, int out, int used)
    : first(static_cast<std::size_t>(used)), second(first), share(static_cast<std::size_t>(used)) {
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  for (int i = 0; i < used; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const float place = std::max(scale * (static_cast<float>(i) + 0.5F) - 0.5F, 0.0F);
    first[at] = std::min(static_cast<int>(place), in - 1);
    second[at] = std::min(first[at] + 1, in - 1);
    share[at] = std::min(std::max(place - static_cast<float>(first[at]), 0.0F), 1.0F);
  }
}

void interpolate(const float* in, int in_width, const Between& rows, const Between& columns, std::vector<float>& out) {
  const std::size_t width = columns.first.size();
  out.resize(rows.first.size() * width);
  float* to = out.data();
  for (std::size_t y = 0; y < rows.first.size(); ++y, to += width) {
    const float* upper = in + static_cast<std::ptrdiff_t>(rows.first[y]) * in_width;
    const float* lower = in + static_cast<std::ptrdiff_t>(rows.second[y]) * in_width;
    const float down = rows.share[y];
    for (std::size_t x = 0; x < width; ++x) {
      const int left = columns.first[x], right = columns.second[x];
      const float along = columns.share[x];
      const float above = upper[left] * (1 - along) + upper[right] * along;
      const float below = lower[left] * (1 - along) + lower[right] * along;
      to[x] = above * (1 - down) + below * down;
    }
  }
}

}  // namespace clouds
