#include "names.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <set>
#include <vector>

#include "clouds/error.hpp"

namespace clouds {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLongest = 255;  // bytes of one part of a path
constexpr std::size_t kDeepest = 32;   // parts

bool is_control(std::uint32_t c) {
  return c <= 0x1f || (c >= 0x7f && c <= 0x9f) || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

// The code points of UTF-8; a byte that is none of it counts as itself, moved to where Python keeps such bytes.
std::vector<std::uint32_t> code_points(const std::string& text) {
  std::vector<std::uint32_t> out;
  for (std::size_t at = 0; at < text.size();) {
    const auto first = static_cast<unsigned char>(text[at]);
    const std::size_t length = first < 0x80 ? 1 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 0;
    std::uint32_t value = length <= 1 ? first : first & (0xffU >> (length + 1));
    bool whole = length > 0 && at + length <= text.size();
    for (std::size_t i = 1; whole && i < length; ++i) {
      const auto next = static_cast<unsigned char>(text[at + i]);
      whole = (next & 0xc0) == 0x80;
      value = value << 6 | (next & 0x3fU);
    }
    out.push_back(whole ? value : 0xdc00U + first);
    at += whole ? length : 1;
  }
  return out;
}

std::string encoded(std::uint32_t c) {
  if (c < 0x80) return {static_cast<char>(c)};
  std::string out;
  const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  out += static_cast<char>((0xff00U >> (more + 1) & 0xffU) | c >> (6 * more));
  for (int i = more - 1; i >= 0; --i) out += static_cast<char>(0x80U | (c >> (6 * i) & 0x3fU));
  return out;
}

// As Python's `unicode_escape` writes it.
std::string escaped(std::uint32_t c) {
  if (c == '\t') return "\\t";
  if (c == '\n') return "\\n";
  if (c == '\r') return "\\r";
  char text[16];
  std::snprintf(text, sizeof text, c < 0x100 ? "\\x%02x" : "\\u%04x", static_cast<unsigned>(c & 0xffff));
  return text;
}

bool is_device(const std::string& part) {
  static const std::set<std::string> kNames = {"con", "prn", "aux", "nul"};
  std::string stem = part.substr(0, part.find('.'));
  stem.erase(stem.find_last_not_of(' ') + 1);
  std::transform(stem.begin(), stem.end(), stem.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  const bool numbered = stem.size() == 4 && (stem.rfind("com", 0) == 0 || stem.rfind("lpt", 0) == 0) &&
                        stem[3] >= '1' && stem[3] <= '9';
  return numbered || kNames.count(stem) != 0;
}

bool is_drive(const std::string& part) {
  const bool letter = !part.empty() && ((part[0] | 32) >= 'a' && (part[0] | 32) <= 'z');
  return letter && part.size() > 1 && part[1] == ':';
}

}  // namespace

std::string name_fault(const std::string& name) {
  if (name.empty()) return "is no name";
  for (const std::uint32_t c : code_points(name)) {
    if (c >= 0xdc00 && c < 0xe000) return "is not UTF-8";
  }
  for (const std::uint32_t c : code_points(name)) {
    if (is_control(c)) return "has a control character in it";
  }
  if (name.front() == '/') return "is an absolute path";
  if (name.find('\\') != std::string::npos) return "has a backslash in it";
  std::vector<std::string> parts;
  for (std::size_t from = 0; from <= name.size();) {
    const std::size_t to = std::min(name.find('/', from), name.size());
    parts.push_back(name.substr(from, to - from));
    from = to + 1;
  }
  if (std::find(parts.begin(), parts.end(), "..") != parts.end()) return "leads outside of it";
  if (parts.size() > kDeepest) return "has more than " + std::to_string(kDeepest) + " parts";
  for (const std::string& part : parts) {
    if (part.empty() || part == ".") return "has an empty part";
    if (is_drive(part)) return "names a drive";
    if (is_device(part)) return "is the name of a device";
    if (part.size() > kLongest) return "has a part of over " + std::to_string(kLongest) + " bytes";
  }
  return "";
}

bool leads_out(const fs::path& path, const fs::path& root) {
  std::error_code error;
  const fs::path top = fs::weakly_canonical(root, error), found = fs::weakly_canonical(path, error);
  return std::mismatch(top.begin(), top.end(), found.begin(), found.end()).first != top.end();
}

fs::path inside(const fs::path& root, const std::string& name, const std::string& where) {
  std::string wrong = name_fault(name);
  const fs::path path = root / fs::u8path(wrong.empty() ? name : "");
  if (wrong.empty() && leads_out(path, root)) wrong = "is a link that leads outside of it";
  if (wrong.empty()) return path;
  throw Error(where + " names " + shown_name(name) + ", which " + wrong, kTampered);
}

std::string shown_name(const std::string& name) {
  std::vector<std::string> characters;
  for (const std::uint32_t c : code_points(name)) {
    const std::string one = c >= 0xdc00 && c < 0xe000 ? escaped(c & 0xff) : is_control(c) ? escaped(c) : encoded(c);
    if (one.front() == '\\' && one.size() > 1) {
      for (const char part : one) characters.emplace_back(1, part);
    } else {
      characters.push_back(one);
    }
  }
  std::string out = "`";
  const std::size_t count = characters.size();
  for (std::size_t i = 0; i < count; ++i) {
    if (count > 120 && i == 100) out += "[...]", i = count - 15;
    out += characters[i];
  }
  return out + "`";
}

}  // namespace clouds
