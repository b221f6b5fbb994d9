#include "npz.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>
#include <string_view>

#include "clouds/error.hpp"

#if defined(CLOUDS_ZLIB)
#include <zlib.h>
#endif

namespace clouds {
namespace {

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
  const auto is_one_of = [](char c, std::string_view all) { return all.find(c) != std::string_view::npos; };
  const bool known = dtype.size() == 3 && is_one_of(dtype[0], "|<") && is_one_of(dtype[1], "iufb") &&
                     is_one_of(dtype[2], "1248");
  if (!known) throw std::runtime_error("an array's type " + dtype + " is unknown");
  return static_cast<std::uint64_t>(dtype[2] - '0');
}

NpyArray parse_npy(const Reader& npy) {
  if (npy.text(0, 6) != "\x93NUMPY") throw std::runtime_error("an entry is no array");
  const bool first = npy.number<std::uint8_t>(6) == 1;
  const std::uint64_t start = first ? 10 : 12;
  const std::uint64_t length = first ? npy.number<std::uint16_t>(8) : npy.number<std::uint32_t>(8);
  if (length > kLongestHeader) throw std::runtime_error("an array's header is too long");
  const std::string header = npy.text(start, length);
  if (value_of(header, "fortran_order") != "False") throw std::runtime_error("an array lies in Fortran's order");
  NpyArray out{value_of(header, "descr"), parse_shape(value_of(header, "shape")), {}};
  if (out.shape.size() > kMostDimensions) throw std::runtime_error("an array's shape is damaged");
  std::uint64_t size = item_size(out.dtype);
  for (const std::int64_t count : out.shape) {
    size *= static_cast<std::uint64_t>(count);  // below 2^64: a count is at most 2^32, a file smaller
    if (size > npy.size()) throw std::runtime_error("it ends too early");
  }
  if (start + length + size != npy.size()) throw std::runtime_error("an array is not as large as its shape says");
  const std::uint8_t* from = npy.bytes(start + length, size);
  out.bytes.assign(from, from + size);
  return out;
}

struct Entry {
  std::string name;
  std::uint16_t method = 0;
  std::uint32_t crc = 0;
  std::uint64_t packed = 0;
  std::uint64_t size = 0;
  std::uint64_t local = 0;
  std::uint64_t data = 0;  // where its bytes begin
};

constexpr std::uint16_t kStored = 0, kDeflated = 8;

std::uint32_t crc32_of(const std::uint8_t* bytes, std::size_t size) {
  static const std::array<std::uint32_t, 256> kTable = [] {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0xedb88320U : 0U);
      table[i] = value;
    }
    return table;
  }();
  std::uint32_t crc = 0xffffffffU;
  for (std::size_t i = 0; i < size; ++i) crc = kTable[(crc ^ bytes[i]) & 0xff] ^ (crc >> 8);
  return ~crc;
}

std::uint64_t find_end(const Reader& zip) {
  if (zip.size() < 22) throw std::runtime_error("it is no zip file");
  const std::uint64_t last = zip.size() - 22;
  const std::uint64_t first = last > 0xffff ? last - 0xffff : 0;
  for (std::uint64_t at = last + 1; at-- > first;) {
    if (zip.number<std::uint32_t>(at) == 0x06054b50 && at + 22 + zip.number<std::uint16_t>(at + 20) == zip.size()) {
      return at;
    }
  }
  throw std::runtime_error("it is no zip file");
}

// Takes from the extra fields what did not fit 32 bits, in the order that the format gives.
void read_zip64(const Reader& zip, std::uint64_t at, std::uint64_t end, const std::vector<std::uint64_t*>& values) {
  while (at + 4 <= end) {
    const auto id = zip.number<std::uint16_t>(at);
    const std::uint64_t stop = at + 4 + zip.number<std::uint16_t>(at + 2);
    at += 4;
    for (std::uint64_t* value : id == 1 ? values : std::vector<std::uint64_t*>{}) {
      if (*value == 0xffffffff && at + 8 <= stop) *value = zip.number<std::uint64_t>(at), at += 8;
    }
    at = stop;
  }
}

// Goes to where an entry's bytes are; what its own header says has to be what the directory says.
void read_local(const Reader& zip, Entry& entry) {
  const std::uint64_t at = entry.local;
  if (zip.number<std::uint32_t>(at) != 0x04034b50) throw std::runtime_error("an entry is damaged");
  const auto flags = zip.number<std::uint16_t>(at + 6);
  std::uint64_t packed = zip.number<std::uint32_t>(at + 18), size = zip.number<std::uint32_t>(at + 22);
  const auto name = zip.number<std::uint16_t>(at + 26), extra = zip.number<std::uint16_t>(at + 28);
  read_zip64(zip, at + 30 + name, at + 30 + name + extra, {&size, &packed});
  const bool streamed = (flags & 8) != 0;  // then its sizes follow its bytes
  const bool same = zip.text(at + 30, name) == entry.name && zip.number<std::uint16_t>(at + 8) == entry.method &&
                    (streamed || (packed == entry.packed && size == entry.size));
  if (!same) throw std::runtime_error("an entry is not what the directory says");
  entry.data = at + 30 + name + extra;
  zip.bytes(entry.data, entry.packed);
}

void check_entries(std::vector<Entry>& entries, std::uint64_t directory) {
  std::uint64_t total = 0;
  for (const Entry& entry : entries) {
    if (entry.method == kStored ? entry.packed != entry.size : entry.method != kDeflated) {
      throw std::runtime_error("an entry is packed in an unknown way");
    }
    if (entry.size > kMostUnpacked - total) throw std::runtime_error("its arrays are too large");
    total += entry.size;
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.local < b.local; });
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const std::uint64_t end = entries[i].data + entries[i].packed;
    if (end > (i + 1 < entries.size() ? entries[i + 1].local : directory)) {
      throw std::runtime_error("its entries overlap");
    }
    for (std::size_t j = 0; j < i; ++j) {
      if (entries[i].name == entries[j].name) throw std::runtime_error("two of its entries have one name");
    }
  }
}

std::vector<Entry> read_directory(const Reader& zip) {
  const std::uint64_t end = find_end(zip);
  const auto count = zip.number<std::uint16_t>(end + 10);
  const std::uint64_t begin = zip.number<std::uint32_t>(end + 16);
  if (count > kMostArrays) throw std::runtime_error("it has over " + std::to_string(kMostArrays) + " entries");
  if (count != zip.number<std::uint16_t>(end + 8) || begin + zip.number<std::uint32_t>(end + 12) != end) {
    throw std::runtime_error("its directory is damaged");
  }
  std::vector<Entry> out;
  std::uint64_t at = begin;
  for (int i = 0; i < count; ++i) {
    if (zip.number<std::uint32_t>(at) != 0x02014b50) throw std::runtime_error("its directory is damaged");
    Entry entry;
    if ((zip.number<std::uint16_t>(at + 8) & 1) != 0) throw std::runtime_error("an entry is encrypted");
    entry.method = zip.number<std::uint16_t>(at + 10);
    entry.crc = zip.number<std::uint32_t>(at + 16);
    entry.packed = zip.number<std::uint32_t>(at + 20);
    entry.size = zip.number<std::uint32_t>(at + 24);
    entry.local = zip.number<std::uint32_t>(at + 42);
    const auto name = zip.number<std::uint16_t>(at + 28);
    const auto extra = zip.number<std::uint16_t>(at + 30);
    const auto comment = zip.number<std::uint16_t>(at + 32);
    entry.name = zip.text(at + 46, name);
    at += 46 + std::uint64_t{name};
    zip.bytes(at, extra);
    read_zip64(zip, at, at + extra, {&entry.size, &entry.packed, &entry.local});
    at += std::uint64_t{extra} + comment;
    read_local(zip, entry);
    out.push_back(entry);
  }
  if (at != end) throw std::runtime_error("its directory is damaged");
  check_entries(out, begin);
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

// The array of an entry; a stored one is read where it lies in the file.
NpyArray read_entry(const Reader& zip, const Entry& entry) {
  const std::uint8_t* from = zip.bytes(entry.data, entry.packed);
  std::vector<std::uint8_t> inflated;
  if (entry.method == kDeflated) inflated = inflate_entry(from, entry);
  const Reader npy(entry.method == kDeflated ? inflated.data() : from, static_cast<std::size_t>(entry.size));
  if (crc32_of(npy.bytes(0, entry.size), npy.size()) != entry.crc) throw std::runtime_error("its checksum differs");
  return parse_npy(npy);
}

}  // namespace

std::map<std::string, NpyArray> read_npz(const std::vector<std::uint8_t>& file, const std::string& where,
                                         const std::vector<std::string>& wanted) {
  try {
    const Reader zip(file.data(), file.size());
    std::map<std::string, NpyArray> out;
    for (const Entry& entry : read_directory(zip)) {
      const std::size_t end = entry.name.rfind(".npy");
      const std::string name = entry.name.substr(0, end);
      if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), name) == wanted.end()) continue;
      out[name] = read_entry(zip, entry);
    }
    return out;
  } catch (const std::runtime_error& error) {
    throw Error(where + " is no array file: " + error.what(), "make the directory again, or copy it whole");
  }
}

}  // namespace clouds
