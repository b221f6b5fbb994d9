// Files, read whole or hashed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace clouds {

// Each opens regular files only: no device, no pipe. `most`: bytes beyond which a file is refused before it is read.
std::string read_text(const std::filesystem::path& path, std::size_t most);  // throws Error
std::vector<std::uint8_t> read_bytes(const std::filesystem::path& path, std::size_t most = SIZE_MAX);
std::string sha256_of(const std::filesystem::path& path);

}  // namespace clouds
