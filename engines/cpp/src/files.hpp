// Files, read whole or hashed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace clouds {

std::string read_text(const std::filesystem::path& path);  // throws Error
std::vector<std::uint8_t> read_bytes(const std::filesystem::path& path);
std::string sha256_of(const std::filesystem::path& path);

}  // namespace clouds
