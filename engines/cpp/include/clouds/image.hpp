// Views of the caller's pixels: the library never owns them, and does not copy them where it can avoid it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace clouds {

enum class PixelFormat { rgb, bgr, rgba, bgra };  // 8 bits a channel, interleaved; alpha is ignored

// A picture to be read.
struct ImageView {
  const std::uint8_t* data = nullptr;
  int height = 0;
  int width = 0;
  std::ptrdiff_t row_stride = 0;  // bytes from one row to the next; 0: rows are packed
  PixelFormat format = PixelFormat::rgb;
};

// One byte a pixel, to be written: labels or confidences. Of the same height and width as its image.
struct MapView {
  std::uint8_t* data = nullptr;
  int height = 0;
  int width = 0;
  std::ptrdiff_t row_stride = 0;
};

}  // namespace clouds
