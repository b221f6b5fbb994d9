#include "npz.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "clouds/error.hpp"

#if defined(CLOUDS_ZLIB)
#include <zlib.h>
#endif

namespace clouds {
namespace {

constexpr std::uint64_t kMost = std::uint64_t{1} << 32;  // bytes of one array; a larger one is no reference image

// Bytes with a bound: reading past the end throws.
class Reader {
 public:
  Reader(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  const std::uint8_t* bytes(std::uint64_t at, std::uint64_t count) const {
    if (at > size_ || count > size_ - at) throw std::runtime_error("it ends too early");
    return data_ + at;
  }
  template <typename T>
  T number(std::uint64_t at) const {  // little-endian
    const std::uint8_t* from = bytes(at, sizeof(T));
    T value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>(value | static_cast<T>(T{from[i]} << (8 * i)));
    return value;
  }
  std::string text(std::uint64_t at, std::uint64_t count) const {
    return {reinterpret_cast<const char*>(bytes(at, count)), static_cast<std::size_t>(count)};
  }
  std::size_t size() const { return size_; }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

struct Entry {
  std::string name;
  std::uint16_t method = 0;
  std::uint64_t packed = 0;
  std::uint64_t size = 0;
  std::uint64_t local = 0;
};

std::uint64_t find_end(const Reader& zip) {
  if (zip.size() < 22) throw std::runtime_error("it is no zip file");
  const std::uint64_t last = zip.size() - 22;
  const std::uint64_t first = last > 0xffff ? last - 0xffff : 0;
  for (std::uint64_t at = last + 1; at-- > first;) {
    if (zip.number<std::uint32_t>(at) == 0x06054b50) return at;
  }
  throw std::runtime_error("it is no zip file");
}

void read_zip64(const Reader& zip, std::uint64_t at, std::uint64_t end, Entry& entry) {
  while (at + 4 <= end) {
    const auto id = zip.number<std::uint16_t>(at);
    const std::uint64_t stop = at + 4 + zip.number<std::uint16_t>(at + 2);
    at += 4;
    if (id == 1) {
      for (std::uint64_t* value : {&entry.size, &entry.packed, &entry.local}) {
        if (*value == 0xffffffff && at + 8 <= stop) *value = zip.number<std::uint64_t>(at), at += 8;
      }
    }
    at = stop;
  }
}

std::vector<Entry> read_directory(const Reader& zip) {
  const std::uint64_t end = find_end(zip);
  const auto count = zip.number<std::uint16_t>(end + 10);
  std::uint64_t at = zip.number<std::uint32_t>(end + 16);
  std::vector<Entry> out;
  for (int i = 0; i < count; ++i) {
    if (zip.number<std::uint32_t>(at) != 0x02014b50) throw std::runtime_error("its directory is damaged");
    Entry entry;
    entry.method = zip.number<std::uint16_t>(at + 10);
    entry.packed = zip.number<std::uint32_t>(at + 20);
    entry.size = zip.number<std::uint32_t>(at + 24);
    entry.local = zip.number<std::uint32_t>(at + 42);
    const auto name = zip.number<std::uint16_t>(at + 28);
    const auto extra = zip.number<std::uint16_t>(at + 30);
    const auto comment = zip.number<std::uint16_t>(at + 32);
    entry.name = zip.text(at + 46, name);
    at += 46 + std::uint64_t{name};
    zip.bytes(at, extra);
    read_zip64(zip, at, at + extra, entry);
    at += std::uint64_t{extra} + comment;
    out.push_back(entry);
  }
  return out;
}

std::vector<std::uint8_t> inflate_entry(const std::uint8_t* from, const Entry& entry) {
#if defined(CLOUDS_ZLIB)
  if (entry.size > entry.packed * 1100 + 64) throw std::runtime_error("its sizes cannot be");  // deflate's limit
  std::vector<std::uint8_t> out(entry.size);
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw std::runtime_error("zlib cannot start");
  stream.next_in = const_cast<std::uint8_t*>(from);
  stream.avail_in = static_cast<uInt>(entry.packed);
  stream.next_out = out.data();
  stream.avail_out = static_cast<uInt>(entry.size);
  const int status = inflate(&stream, Z_FINISH);
  const bool whole = status == Z_STREAM_END && stream.total_out == entry.size;
  inflateEnd(&stream);
  if (!whole) throw std::runtime_error("its compressed bytes are damaged");
  return out;
#else
  (void)from;
  (void)entry;
  throw std::runtime_error("it is compressed, and this build has no zlib");
#endif
}

std::vector<std::uint8_t> unpack(const Reader& zip, const Entry& entry) {
  if (zip.number<std::uint32_t>(entry.local) != 0x04034b50) throw std::runtime_error("an entry is damaged");
  if (entry.size >= kMost || entry.packed >= kMost) throw std::runtime_error("an array is too large");
  const std::uint64_t data = entry.local + 30 + std::uint64_t{zip.number<std::uint16_t>(entry.local + 26)} +
                             zip.number<std::uint16_t>(entry.local + 28);
  const std::uint8_t* from = zip.bytes(data, entry.packed);
  if (entry.method == 8) return inflate_entry(from, entry);
  if (entry.method != 0 || entry.packed != entry.size) throw std::runtime_error("an entry is packed in an unknown way");
  return {from, from + entry.size};
}

// The value of a key in a .npy header, which is a Python dict literal.
std::string value_of(const std::string& header, const std::string& key) {
  const std::size_t at = header.find("'" + key + "':");
  if (at == std::string::npos) throw std::runtime_error("an array's header has no " + key);
  const std::size_t from = header.find_first_not_of(' ', at + key.size() + 3);
  if (from == std::string::npos) throw std::runtime_error("an array's header is damaged");
  const char close = header[from] == '(' ? ')' : header[from] == '\'' ? '\'' : ',';
  const std::size_t to = header.find(close, from + 1);
  if (to == std::string::npos) throw std::runtime_error("an array's header is damaged");
  return close == ',' ? header.substr(from, to - from) : header.substr(from + 1, to - from - 1);
}

Shape parse_shape(const std::string& text) {
  Shape out;
  std::int64_t value = -1;
  for (const char c : text + ",") {
    if (c >= '0' && c <= '9') {
      value = std::max<std::int64_t>(value, 0) * 10 + (c - '0');
      if (value > (std::int64_t{1} << 32)) throw std::runtime_error("an array's shape is damaged");
    } else if (c == ',') {
      if (value >= 0) out.push_back(value);
      value = -1;
    } else if (c != ' ') {
      throw std::runtime_error("an array's shape is damaged");
    }
  }
  return out;
}

std::uint64_t item_size(const std::string& dtype) {
  const bool known = dtype.size() == 3 && std::strchr("|<", dtype[0]) != nullptr &&
                     std::strchr("iufb", dtype[1]) != nullptr && std::strchr("1248", dtype[2]) != nullptr;
  if (!known) throw std::runtime_error("an array's type " + dtype + " is unknown");
  return static_cast<std::uint64_t>(dtype[2] - '0');
}

NpyArray parse_npy(const std::vector<std::uint8_t>& bytes) {
  const Reader npy(bytes.data(), bytes.size());
  if (npy.text(0, 6) != "\x93NUMPY") throw std::runtime_error("an entry is no array");
  const bool first = npy.number<std::uint8_t>(6) == 1;
  const std::uint64_t start = first ? 10 : 12;
  const std::uint64_t length = first ? npy.number<std::uint16_t>(8) : npy.number<std::uint32_t>(8);
  const std::string header = npy.text(start, length);
  if (value_of(header, "fortran_order") != "False") throw std::runtime_error("an array lies in Fortran's order");
  NpyArray out{value_of(header, "descr"), parse_shape(value_of(header, "shape")), {}};
  std::uint64_t size = item_size(out.dtype);
  for (const std::int64_t count : out.shape) {
    size *= static_cast<std::uint64_t>(count);
    if (size >= kMost) throw std::runtime_error("an array is too large");
  }
  const std::uint8_t* from = npy.bytes(start + length, size);
  out.bytes.assign(from, from + size);
  return out;
}

}  // namespace

std::map<std::string, NpyArray> read_npz(const std::vector<std::uint8_t>& file, const std::string& where) {
  try {
    const Reader zip(file.data(), file.size());
    std::map<std::string, NpyArray> out;
    for (const Entry& entry : read_directory(zip)) {
      const std::size_t end = entry.name.rfind(".npy");
      out[entry.name.substr(0, end)] = parse_npy(unpack(zip, entry));
    }
    return out;
  } catch (const std::runtime_error& error) {
    throw Error(where + " is no array file: " + error.what(), "make the directory again, or copy it whole");
  }
}

}  // namespace clouds
