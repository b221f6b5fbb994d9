// Views of the caller's pixels: the library never owns, and where it can never copies them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace clouds {

enum class PixelFormat { rgb, bgr, rgba, bgra };  // 8 bits a channel, interleaved; alpha is passed over

// A picture to be read.
struct ImageView {
  const std::uint8_t* data = nullptr;
  int height = 0;
  int width = 0;
  std::ptrdiff_t row_stride = 0;  // bytes from one row to the next; 0: rows lie against each other
  PixelFormat format = PixelFormat::rgb;
};

// One byte a pixel, to be written: labels, or how sure they are. Of the same height and width as its image.
struct MapView {
  std::uint8_t* data = nullptr;
  int height = 0;
  int width = 0;
  std::ptrdiff_t row_stride = 0;
};

}  // namespace clouds
