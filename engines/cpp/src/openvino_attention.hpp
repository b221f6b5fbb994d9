// Attention whose bias is made of rows and columns, cut into parts; see clouds_deploy.backends.openvino.attention.
#pragma once

#include <cstddef>
#include <memory>
#include <openvino/openvino.hpp>

namespace clouds {

// Cuts attention whose bias has at least `large` bytes in float32 by heads and by queries, into parts of at most
// `part` bytes, in a model of fixed sizes; its numbers stay. Gives how many it cut.
std::size_t cut_attention(const std::shared_ptr<ov::Model>& model, std::size_t large = std::size_t{1} << 26,
                          std::size_t part = std::size_t{1} << 24);

}  // namespace clouds
