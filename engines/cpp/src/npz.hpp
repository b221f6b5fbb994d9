// NumPy's .npz files: a zip of .npy arrays.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tensor.hpp"

namespace clouds {

struct NpyArray {
  std::string dtype;  // as numpy writes it: |u1, <f4, <i8, ...
  Shape shape;
  std::vector<std::uint8_t> bytes;
};

// Reads every array; `where` is the file's path, for errors. Throws Error.
std::map<std::string, NpyArray> read_npz(const std::vector<std::uint8_t>& file, const std::string& where);

}  // namespace clouds
