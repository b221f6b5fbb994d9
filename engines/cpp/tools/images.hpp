// Image files for the sample; the library itself takes pixels.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace images {

struct Picture {
  int height = 0;
  int width = 0;
  std::vector<std::uint8_t> rgb;
};

// PNG, JPEG (where libjpeg was found) and binary PPM, upright; throws clouds::Error.
Picture read(const std::filesystem::path& path);

// The same of a file's bytes; the path is for errors.
Picture decode(const std::vector<std::uint8_t>& bytes, const std::filesystem::path& path);

// (height, width) grey or, with three channels, RGB. Written beside its place first, so that no half file stays.
void write_png(const std::filesystem::path& path, const std::uint8_t* pixels, int height, int width, int channels);

bool is_image(const std::filesystem::path& path);  // by its name

}  // namespace images
