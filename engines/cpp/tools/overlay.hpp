// Label maps blended over their images; the blending of clouds_deploy.data.overlay, without its legend.
#pragma once

#include <cstdint>
#include <vector>

#include "clouds/segmenter.hpp"
#include "images.hpp"

namespace images {

Picture overlay(const Picture& image, const std::vector<std::uint8_t>& labels,
                const std::vector<std::array<std::uint8_t, 3>>& palette);

}  // namespace images
