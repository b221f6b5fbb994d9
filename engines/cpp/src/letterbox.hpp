// Fitting an image of any size into a graph of one size, and its labels back; as clouds_deploy.inference.letterbox.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "clouds/image.hpp"
#include "resize.hpp"

namespace clouds {

// Where an image lies inside the graph's input: from the upper left corner.
struct Letterbox {
  int height;
  int width;
  int inner_height;
  int inner_width;
};

void check_image(const ImageView& image);  // throws Error
void check_map(const MapView& map, const ImageView& image, const char* what);

Letterbox letterbox_of(int height, int width, int graph_height, int graph_width);

// The image as packed RGB rows that may lie apart; copied into `packed` where it is not RGB.
Source rgb_rows(const ImageView& image, std::vector<std::uint8_t>& packed);

// Writes (height, width, 3) packed RGB: the image, resized as far as it fits, and the colour in the rest.
void fit(const ImageView& image, const Letterbox& box, int height, int width, const std::array<std::uint8_t, 3>& color,
         std::uint8_t* out, Resizer& resizer, std::vector<std::uint8_t>& packed);

// Writes a map of the graph's size, `width` bytes a row, back at the image's own size, by nearest neighbour.
void restore(const std::uint8_t* map, int width, const Letterbox& box, const MapView& out, Resizer& resizer);

inline std::ptrdiff_t stride_of(const MapView& map) { return map.row_stride != 0 ? map.row_stride : map.width; }

}  // namespace clouds
