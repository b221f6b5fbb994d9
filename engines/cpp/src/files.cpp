#include "files.hpp"

#include <cstdio>
#include <memory>

#include "clouds/error.hpp"
#include "documents.hpp"
#include "sha256.hpp"

namespace clouds {
namespace {

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

File open(const std::filesystem::path& path) {
  std::error_code ignored;
  File file(std::filesystem::is_regular_file(path, ignored) ? std::fopen(path.string().c_str(), "rb") : nullptr,
            &std::fclose);
  if (!file) {
    const bool there = std::filesystem::symlink_status(path, ignored).type() != std::filesystem::file_type::not_found;
    throw Error(path.string() + (there ? " is no file" : " is missing"), "make the directory again, or copy it whole");
  }
  return file;
}

template <typename Sink>
void read_blocks(const std::filesystem::path& path, Sink sink) {
  const File file = open(path);
  std::vector<std::uint8_t> block(std::size_t{1} << 20);
  while (const std::size_t got = std::fread(block.data(), 1, block.size(), file.get())) sink(block.data(), got);
  if (std::ferror(file.get()) != 0) throw Error(path.string() + " cannot be read", "check the disk and the path");
}

// Reads into one allocation of the file's size; a file that grows meanwhile is cut there.
template <typename Container>
void read_whole(const std::filesystem::path& path, std::size_t most, Container& out) {
  const File file = open(path);
  const std::uintmax_t size = std::filesystem::file_size(path);
  if (size > most) {
    throw Error(path.string() + " has " + std::to_string(size) + " bytes, at most " + std::to_string(most) + " are read",
                "don't use it: it was tampered with");
  }
  out.resize(static_cast<std::size_t>(size));
  out.resize(std::fread(out.data(), 1, out.size(), file.get()));
  if (std::ferror(file.get()) != 0) throw Error(path.string() + " cannot be read", "check the disk and the path");
}

}  // namespace

std::string read_text(const std::filesystem::path& path, std::size_t most) {
  std::string text;
  read_whole(path, most, text);
  return text;
}

std::string read_document(const std::filesystem::path& path) {
  const File file = open(path);
  std::string text(kLargestDocument + 1, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  if (std::ferror(file.get()) != 0) throw Error(path.string() + " cannot be read", "check its permissions");
  return text;
}

std::vector<std::uint8_t> read_bytes(const std::filesystem::path& path, std::size_t most) {
  std::vector<std::uint8_t> bytes;
  read_whole(path, most, bytes);
  return bytes;
}

void write_file(const std::filesystem::path& path, const void* data, std::size_t size) {
  namespace fs = std::filesystem;
  fs::path temporary = path;
  temporary += ".part";
  std::error_code ignored;
  File file(std::fopen(temporary.string().c_str(), "wb"), &std::fclose);
  bool whole = file != nullptr && std::fwrite(data, 1, size, file.get()) == size && std::fflush(file.get()) == 0;
  whole = file != nullptr && std::fclose(file.release()) == 0 && whole;
  std::error_code error;
  if (whole) fs::rename(temporary, path, error);
  if (!whole || error) {
    fs::remove(temporary, ignored);
    throw Error(path.string() + " cannot be written", "check the path and the space left");
  }
}

std::string sha256_of(const std::filesystem::path& path) {
  Sha256 digest;
  read_blocks(path, [&](const std::uint8_t* data, std::size_t size) { digest.update(data, size); });
  return digest.hex();
}

}  // namespace clouds
