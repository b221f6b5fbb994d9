#include "onnx_model.hpp"

#include <array>
#include <cstdint>
#include <fstream>
#include <utility>
#include <vector>

#include "clouds/error.hpp"
#include "names.hpp"

namespace clouds {
namespace {

// Messages of onnx.proto on the way to a tensor. Everything else is skipped.
enum class Message { model, training, function, graph, node, attribute, sparse, tensor, entry, none };

constexpr int kMostNested = 100;  // messages within each other; protobuf's own limit
constexpr std::uint64_t kLongestText = 4096;

Message inside(Message message, std::uint64_t field) {
  switch (message) {
    case Message::model:
      return field == 7 ? Message::graph : field == 20 ? Message::training : field == 25 ? Message::function
                                                                                         : Message::none;
    case Message::training:
      return field == 1 || field == 2 ? Message::graph : Message::none;
    case Message::function:
      return field == 7 ? Message::node : field == 11 ? Message::attribute : Message::none;
    case Message::graph:
      return field == 1 ? Message::node : field == 5 ? Message::tensor : field == 15 ? Message::sparse : Message::none;
    case Message::node:
      return field == 5 ? Message::attribute : Message::none;
    case Message::attribute:
      return field == 5 || field == 10   ? Message::tensor
             : field == 6 || field == 11 ? Message::graph
             : field == 22 || field == 23 ? Message::sparse
                                          : Message::none;
    case Message::sparse:
      return field == 1 || field == 2 ? Message::tensor : Message::none;
    case Message::tensor:
      return field == 13 ? Message::entry : Message::none;
    default:
      return Message::none;
  }
}

struct Malformed {};

// The bytes of a file, most of which are passed over without being read.
class Bytes {
 public:
  explicit Bytes(std::istream& file) : file_(file) {
    file_.seekg(0, std::ios::end);
    const std::streamoff end = file_.tellg();
    size_ = end < 0 ? 0 : static_cast<std::uint64_t>(end);
  }

  std::uint64_t size() const { return size_; }
  std::uint64_t at() const { return at_; }

  std::uint8_t next() {
    if (at_ >= size_) throw Malformed{};
    if (at_ < from_ || at_ >= from_ + held_) fill();
    return block_[static_cast<std::size_t>(at_++ - from_)];
  }
  void skip(std::uint64_t count, std::uint64_t end) {
    if (count > end - at_) throw Malformed{};
    at_ += count;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      const std::uint8_t byte = next();
      value |= shift < 64 ? std::uint64_t{byte & 0x7fU} << shift : 0;
      if (byte < 0x80) return value;
    }
    throw Malformed{};
  }

 private:
  void fill() {
    file_.clear();
    file_.seekg(static_cast<std::streamoff>(at_));
    file_.read(reinterpret_cast<char*>(block_.data()), static_cast<std::streamsize>(block_.size()));
    from_ = at_;
    held_ = static_cast<std::uint64_t>(file_.gcount());
    if (held_ == 0) throw Malformed{};
  }

  std::istream& file_;
  std::uint64_t size_ = 0, at_ = 0, from_ = 0, held_ = 0;
  std::array<std::uint8_t, 1 << 14> block_{};
};

class Walk {
 public:
  Walk(std::istream& file, const std::string& where, const std::set<std::string>& listed)
      : where_(where), listed_(listed), bytes_(file) {}

  void model() {
    if (bytes_.size() == 0) throw Malformed{};
    fields(Message::model, bytes_.size(), 0);
  }

 private:
  void fields(Message message, std::uint64_t end, int nested) {
    if (nested > kMostNested) throw Malformed{};
    std::string key, value;
    while (bytes_.at() < end) {
      const std::uint64_t tag = bytes_.varint(), field = tag >> 3;
      if (field == 0 || tag > 0xffffffffU) throw Malformed{};
      std::uint64_t length = 0;
      switch (tag & 7) {
        case 0:
          bytes_.varint();
          break;
        case 1:
          length = 8;
          break;
        case 2:
          length = bytes_.varint();
          break;
        case 5:
          length = 4;
          break;
        default:
          throw Malformed{};  // groups: no ONNX file has them
      }
      if (bytes_.at() > end || length > end - bytes_.at()) throw Malformed{};
      if ((tag & 7) != 2) {
        bytes_.skip(length, end);
        continue;
      }
      const Message next = inside(message, field);
      if (next != Message::none) {
        fields(next, bytes_.at() + length, nested + 1);
      } else if (message == Message::entry && (field == 1 || field == 2)) {
        (field == 1 ? key : value) = text(length);
      } else {
        bytes_.skip(length, end);
      }
    }
    if (bytes_.at() != end) throw Malformed{};
    if (message == Message::entry && key == "location") check(value);
  }

  std::string text(std::uint64_t length) {
    if (length > kLongestText) throw Malformed{};
    std::string out;
    for (; length > 0; --length) out += static_cast<char>(bytes_.next());
    return out;
  }

  void check(const std::string& location) const {
    if (listed_.count(location) != 0) return;
    throw Error(where_ + " takes weights from " + shown_name(location) + ", which is no file of the bundle's manifest",
                kTampered);
  }

  const std::string& where_;
  const std::set<std::string>& listed_;
  Bytes bytes_;
};

}  // namespace

void check_graph(std::istream& model, const std::string& where, const std::set<std::string>& listed) {
  try {
    Walk(model, where, listed).model();
  } catch (const Malformed&) {
    throw Error(where + " is no ONNX file", "export the run again");
  }
}

void check_graph(const std::filesystem::path& model, const std::set<std::string>& listed) {
  std::error_code error;
  const bool regular = std::filesystem::is_regular_file(model, error);
  std::ifstream file(regular ? model : std::filesystem::path(), std::ios::binary);
  check_graph(file, model.string(), listed);
}

}  // namespace clouds
