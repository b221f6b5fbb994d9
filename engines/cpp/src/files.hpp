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
std::string read_document(const std::filesystem::path& path);  // one byte more than a document may have, at most
std::vector<std::uint8_t> read_bytes(const std::filesystem::path& path, std::size_t most = SIZE_MAX);

// Writes beside its place first, so that no half file stays. Throws Error.
void write_file(const std::filesystem::path& path, const void* data, std::size_t size);

std::string sha256_of(const std::filesystem::path& path);

}  // namespace clouds
