#include "letterbox.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "clouds/error.hpp"

namespace clouds {
namespace {

constexpr int kLargest = 1 << 16;                              // pixels of a side
constexpr std::ptrdiff_t kFarthest = std::ptrdiff_t{1} << 30;  // bytes from one row to the next

int channels_of(PixelFormat format) { return format == PixelFormat::rgb || format == PixelFormat::bgr ? 3 : 4; }

std::ptrdiff_t stride_of_image(const ImageView& image) {
  return image.row_stride != 0 ? image.row_stride : std::ptrdiff_t{image.width} * channels_of(image.format);
}

// Whether rows so far apart lie where a pointer can reach, and do not overlap. Compared without a product that could
// overflow, and without the absolute value of the least number, which has none.
bool rows_fit(const std::uint8_t* data, std::ptrdiff_t stride, std::ptrdiff_t row, int height) {
  const bool up = stride < 0;
  if (up ? stride > -row || stride < -kFarthest : stride < row || stride > kFarthest) return false;
  const auto whole = static_cast<std::uintptr_t>(up ? -stride : stride) * static_cast<std::uintptr_t>(height);
  const auto first = reinterpret_cast<std::uintptr_t>(data);
  return up ? first >= whole - static_cast<std::uintptr_t>(-stride) : first <= UINTPTR_MAX - whole;
}

std::string size_of(int height, int width) { return std::to_string(height) + " x " + std::to_string(width); }

}  // namespace

void check_image(const ImageView& image) {
  const std::string size = size_of(image.height, image.width);
  const auto format = static_cast<int>(image.format);
  if (image.data == nullptr || image.height < 1 || image.width < 1 || format < 0 || format > 3) {
    throw Error("an image of " + size + " is no RGB image", "give (height, width, 3) uint8");
  }
  if (image.height > kLargest || image.width > kLargest) {
    throw Error("an image of " + size + " is too large", "give at most 65536 pixels a side");
  }
  const std::ptrdiff_t row = std::ptrdiff_t{image.width} * channels_of(image.format);
  if (!rows_fit(image.data, stride_of_image(image), row, image.height)) {
    throw Error("the rows of an image of " + size + " overlap or lie too far apart: row_stride " +
                    std::to_string(image.row_stride),
                "give the bytes from one row to the next");
  }
}

void check_map(const MapView& map, const ImageView& image, const char* what) {
  if (map.data == nullptr || map.height != image.height || map.width != image.width) {
    throw Error(std::string(what) + " of " + size_of(map.height, map.width) + " are for an image of " +
                    size_of(image.height, image.width),
                "give a byte for every pixel of the image");
  }
  if (!rows_fit(map.data, stride_of(map), map.width, map.height)) {
    throw Error("the rows of " + std::string(what) + " overlap or lie too far apart: row_stride " +
                    std::to_string(map.row_stride),
                "give the bytes from one row to the next");
  }
}

Letterbox letterbox_of(int height, int width, int graph_height, int graph_width) {
  const double scale = std::min(static_cast<double>(graph_height) / height, static_cast<double>(graph_width) / width);
  // nearbyint rounds halves to even, as Python does
  const int inner_height = std::min(graph_height, std::max(1, static_cast<int>(std::nearbyint(height * scale))));
  const int inner_width = std::min(graph_width, std::max(1, static_cast<int>(std::nearbyint(width * scale))));
  return {height, width, inner_height, inner_width};
}

Source rgb_rows(const ImageView& image, std::vector<std::uint8_t>& packed) {
  const std::ptrdiff_t stride = stride_of_image(image);
  if (image.format == PixelFormat::rgb) return {image.data, image.height, image.width, stride};
  const int channels = channels_of(image.format);
  const bool swapped = image.format == PixelFormat::bgr || image.format == PixelFormat::bgra;
  const int red = swapped ? 2 : 0, blue = swapped ? 0 : 2;
  const std::size_t row = static_cast<std::size_t>(image.width) * 3;
  packed.resize(row * static_cast<std::size_t>(image.height));
  std::uint8_t* out = packed.data();
  for (int y = 0; y < image.height; ++y) {
    const std::uint8_t* in = image.data + y * stride;
    for (int x = 0; x < image.width; ++x, in += channels, out += 3) out[0] = in[red], out[1] = in[1], out[2] = in[blue];
  }
  return {packed.data(), image.height, image.width, static_cast<std::ptrdiff_t>(row)};
}

void fit(const ImageView& image, const Letterbox& box, int height, int width, const std::array<std::uint8_t, 3>& color,
         std::uint8_t* out, Resizer& resizer, std::vector<std::uint8_t>& packed) {
  const std::ptrdiff_t stride = std::ptrdiff_t{width} * 3;
  resizer.bilinear(rgb_rows(image, packed), {out, box.inner_height, box.inner_width, stride}, 3);
  const auto fill = [&](std::uint8_t* at, std::uint8_t* end) {
    for (; at < end; at += 3) std::copy(color.begin(), color.end(), at);
  };
  for (int y = 0; y < box.inner_height; ++y) fill(out + y * stride + box.inner_width * 3, out + (y + 1) * stride);
  fill(out + box.inner_height * stride, out + height * stride);
}

void restore(const std::uint8_t* map, int width, const Letterbox& box, const MapView& out, Resizer& resizer) {
  const std::ptrdiff_t stride = stride_of(out);
  if (box.inner_height == box.height && box.inner_width == box.width) {
    for (int y = 0; y < box.height; ++y) {
      std::memcpy(out.data + y * stride, map + std::ptrdiff_t{y} * width, static_cast<std::size_t>(box.width));
    }
    return;
  }
  resizer.nearest({map, box.inner_height, box.inner_width, width}, {out.data, box.height, box.width, stride});
}

}  // namespace clouds
