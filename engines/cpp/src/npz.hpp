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

// What a file of arrays may cost; the same in clouds_deploy.
inline constexpr std::uint64_t kLargestArrays = std::uint64_t{1} << 30;  // bytes of the file
inline constexpr std::uint64_t kMostUnpacked = std::uint64_t{1} << 30;   // bytes of all arrays
inline constexpr std::size_t kMostArrays = 64;
inline constexpr std::size_t kLongestHeader = 10000;  // of one array; numpy's own limit
inline constexpr std::size_t kMostDimensions = 32;

// Reads arrays: those of the names wanted, or all. `where` is the file's path, for errors. Entries are stored or
// deflated, have names of their own, lie apart, and are of the sizes and checksums that the directory says; nothing is
// allocated for a size before it is checked against the file's own. Throws Error.
std::map<std::string, NpyArray> read_npz(const std::vector<std::uint8_t>& file, const std::string& where,
                                         const std::vector<std::string>& wanted = {});

}  // namespace clouds
