#include "overlay.hpp"

namespace images {
namespace {

constexpr int kShare = 141;  // of 256: the colour's; the rest is the image's
constexpr double kEdge = 0.55;

}  // namespace

Picture overlay(const Picture& image, const std::vector<std::uint8_t>& labels,
                const std::vector<std::array<std::uint8_t, 3>>& palette) {
  Picture out{image.height, image.width, image.rgb};
  const auto width = static_cast<std::size_t>(image.width);
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const std::uint8_t label = labels[i];
    std::uint8_t* pixel = out.rgb.data() + 3 * i;
    if (label < palette.size()) {
      for (std::size_t c = 0; c < 3; ++c) {
        pixel[c] = static_cast<std::uint8_t>((pixel[c] * (256 - kShare) + palette[label][c] * kShare + 128) >> 8);
      }
    }
    const bool edge = (i % width != 0 && labels[i - 1] != label) || (i >= width && labels[i - width] != label);
    for (std::size_t c = 0; c < 3 && edge; ++c) pixel[c] = static_cast<std::uint8_t>(pixel[c] * kEdge);
  }
  return out;
}

}  // namespace images
