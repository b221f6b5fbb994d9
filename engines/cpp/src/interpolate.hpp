// Bilinear interpolation as `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` defines it.
#pragma once

#include <vector>

namespace clouds {

// For every output position its two neighbours and the share of the second.
struct Between {
  std::vector<int> first, second;
  std::vector<float> share;
  Between(int in, int out, int used);  // the first `used` positions of `out`
};

// From rows of `in_width` floats to rows.first.size() x columns.first.size() of them.
void interpolate(const float* in, int in_width, const Between& rows, const Between& columns, std::vector<float>& out);

}  // namespace clouds
