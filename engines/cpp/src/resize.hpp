// Pillow's resizing, to the bit: `Image.resize` with BILINEAR (antialiased, 8-bit fixed point) and with NEAREST.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace clouds {

// Pixels of 8-bit channels, interleaved; `stride` bytes from row to row.
struct Source {
  const std::uint8_t* data;
  int height;
  int width;
  std::ptrdiff_t stride;
};
struct Target {
  std::uint8_t* data;
  int height;
  int width;
  std::ptrdiff_t stride;
};

// Keeps its tables and its memory between calls, for the next frame of a video. One thread at a time.
class Resizer {
 public:
  void bilinear(const Source& source, const Target& target, int channels);
  void nearest(const Source& source, const Target& target);  // one channel

 private:
  // For every output position the first input position, how many follow, and their weights as fractions of 2^22.
  struct Table {
    int from = 0;
    int to = 0;
    int most = 0;  // weights per position, the rest of each row of `weights` being zero
    std::vector<int> first;
    std::vector<int> count;
    std::vector<std::int32_t> weights;
    void prepare(int in, int out);
  };

  void resize_columns(const Source& source, const Target& target, int channels);
  void resize_rows(const Source& source, const Target& target, int channels);

  Table columns_;
  Table rows_;
  std::vector<std::uint8_t> between_;
  std::vector<std::int32_t> sums_;
  std::vector<int> lookup_;
};

}  // namespace clouds
