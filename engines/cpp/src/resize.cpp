// The arithmetic is that of Pillow's src/libImaging/Resample.c and Geometry.c, order of operations included: doubles
// for the weights, each rounded to 22 fractional bits, sums that start at one half.
#include "resize.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace clouds {
namespace {

constexpr int kBits = 32 - 8 - 2;
constexpr std::int32_t kHalf = 1 << (kBits - 1);

std::uint8_t clip(std::int32_t value) { return static_cast<std::uint8_t>(std::clamp(value >> kBits, 0, 255)); }

double triangle(double x) {
  x = x < 0 ? -x : x;
  return x < 1.0 ? 1.0 - x : 0.0;
}

template <int Channels>
void pass_columns(const std::uint8_t* in, std::uint8_t* out, int width, const int* first, const int* count,
                  const std::int32_t* weights, int most) {
  for (int x = 0; x < width; ++x, weights += most) {
    std::int32_t sum[Channels];
    std::fill_n(sum, Channels, kHalf);
    const std::uint8_t* at = in + std::ptrdiff_t{first[x]} * Channels;
    for (int i = 0; i < count[x]; ++i, at += Channels) {
      for (int c = 0; c < Channels; ++c) sum[c] += at[c] * weights[i];
    }
    for (int c = 0; c < Channels; ++c) *out++ = clip(sum[c]);
  }
}

}  // namespace

void Resizer::Table::prepare(int in, int out) {
  if (from == in && to == out) return;
  const double scale = static_cast<double>(in) / out;
  const double stretch = std::max(scale, 1.0);
  const double support = 1.0 * stretch;  // the triangle's
  most = static_cast<int>(std::ceil(support)) * 2 + 1;
  first.assign(static_cast<std::size_t>(out), 0);
  count.assign(static_cast<std::size_t>(out), 0);
  weights.assign(static_cast<std::size_t>(out) * static_cast<std::size_t>(most), 0);
  std::vector<double> row(static_cast<std::size_t>(most));
  const double inverse = 1.0 / stretch;
  for (int x = 0; x < out; ++x) {
    const double center = (x + 0.5) * scale;
    const int least = std::max(static_cast<int>(center - support + 0.5), 0);
    const int number = std::min(static_cast<int>(center + support + 0.5), in) - least;
    double total = 0.0;
    for (int i = 0; i < number; ++i) {
      row[static_cast<std::size_t>(i)] = triangle((i + least - center + 0.5) * inverse);
      total += row[static_cast<std::size_t>(i)];
    }
    std::int32_t* to_write = weights.data() + static_cast<std::ptrdiff_t>(x) * most;
    for (int i = 0; i < number; ++i) {
      double weight = row[static_cast<std::size_t>(i)];
      if (total != 0.0) weight /= total;
      to_write[i] = static_cast<std::int32_t>(0.5 + weight * (1 << kBits));
    }
    first[static_cast<std::size_t>(x)] = least;
    count[static_cast<std::size_t>(x)] = number;
  }
  from = in, to = out;
}

void Resizer::resize_columns(const Source& source, const Target& target, int channels) {
  columns_.prepare(source.width, target.width);
  const auto pass = channels == 1 ? pass_columns<1> : pass_columns<3>;
  for (int y = 0; y < source.height; ++y) {
    pass(source.data + y * source.stride, target.data + y * target.stride, target.width, columns_.first.data(),
         columns_.count.data(), columns_.weights.data(), columns_.most);
  }
}

void Resizer::resize_rows(const Source& source, const Target& target, int channels) {
  rows_.prepare(source.height, target.height);
  const std::size_t size = static_cast<std::size_t>(target.width) * static_cast<std::size_t>(channels);
  sums_.resize(size);
  for (int y = 0; y < target.height; ++y) {
    std::fill(sums_.begin(), sums_.end(), kHalf);
    const std::int32_t* weights = rows_.weights.data() + static_cast<std::ptrdiff_t>(y) * rows_.most;
    const int least = rows_.first[static_cast<std::size_t>(y)];
    for (int i = 0; i < rows_.count[static_cast<std::size_t>(y)]; ++i) {
      const std::uint8_t* in = source.data + (least + i) * source.stride;
      const std::int32_t weight = weights[i];
      std::int32_t* sums = sums_.data();
      for (std::size_t x = 0; x < size; ++x) sums[x] += in[x] * weight;
    }
    std::uint8_t* out = target.data + y * target.stride;
    for (std::size_t x = 0; x < size; ++x) out[x] = clip(sums_[x]);
  }
}

void Resizer::bilinear(const Source& source, const Target& target, int channels) {
  const bool columns = source.width != target.width, rows = source.height != target.height;
  if (!columns && !rows) {
    const std::size_t size = static_cast<std::size_t>(target.width) * static_cast<std::size_t>(channels);
    for (int y = 0; y < target.height; ++y) {
      std::memcpy(target.data + y * target.stride, source.data + y * source.stride, size);
    }
  } else if (!rows) {
    resize_columns(source, target, channels);
  } else if (!columns) {
    resize_rows(source, target, channels);
  } else {
    // Pillow from 13 on: rows first where the height drops by more than twice of what the width does.
    const int lower = source.height - target.height, narrower = source.width - target.width;
    const bool rows_first = lower > 0 && lower > 2 * narrower;
    const int height = rows_first ? target.height : source.height, width = rows_first ? source.width : target.width;
    const std::ptrdiff_t stride = std::ptrdiff_t{width} * channels;
    between_.resize(static_cast<std::size_t>(stride) * static_cast<std::size_t>(height));
    const Target to{between_.data(), height, width, stride};
    const Source from{between_.data(), height, width, stride};
    if (rows_first) {
      resize_rows(source, to, channels);
      resize_columns(from, target, channels);
    } else {
      resize_columns(source, to, channels);
      resize_rows(from, target, channels);
    }
  }
}

void Resizer::nearest(const Source& source, const Target& target) {
  // Positions are added up, not multiplied: the rounding of these sums decides which pixel is taken.
  lookup_.assign(static_cast<std::size_t>(target.width), -1);
  const double step_x = static_cast<double>(source.width) / target.width;
  const double step_y = static_cast<double>(source.height) / target.height;
  double at = step_x * 0.5;
  for (int& column : lookup_) {
    const int x = static_cast<int>(at);
    if (x < source.width) column = x;
    at += step_x;
  }
  at = step_y * 0.5;
  for (int y = 0; y < target.height; ++y, at += step_y) {
    const int row = static_cast<int>(at);
    std::uint8_t* out = target.data + y * target.stride;
    if (row >= source.height) {
      std::memset(out, 0, static_cast<std::size_t>(target.width));
      continue;
    }
    const std::uint8_t* in = source.data + row * source.stride;
    for (const int column : lookup_) *out++ = column < 0 ? std::uint8_t{0} : in[column];
  }
}

}  // namespace clouds
