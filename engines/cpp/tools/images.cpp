#include "images.hpp"

#include <png.h>

#include <algorithm>
#include <cctype>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "clouds/error.hpp"

#if defined(CLOUDS_JPEG)
#include <jerror.h>
#include <jpeglib.h>
#endif

namespace images {
namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<std::uint8_t>;

// The same in clouds_deploy.data.images.
constexpr std::uint64_t kLargestPixels = 500000000;

constexpr std::uint64_t kMostInflated = 1032;  // bytes that deflate can make of one
constexpr std::uint64_t kMostJpegPixels = 1024;  // of one byte: a block of 64 takes at least a bit in Huffman's coding

// Asked before memory is taken: a few bytes can claim any size.
void check_size(const fs::path& path, std::uint64_t width, std::uint64_t height) {
  if (width * height <= kLargestPixels) return;  // each of 32 bits
  throw clouds::Error(path.string() + " is too large: " + std::to_string(width) + "x" + std::to_string(height) +
                          " pixels; at most " + std::to_string(kLargestPixels / 1000000) + " million are read",
                      "cut it into tiles, or make it smaller");
}

[[noreturn]] void damaged(const fs::path& path, const std::string& why) {
  throw clouds::Error(path.string() + " is a damaged image: " + why, "copy or download it again");
}

Bytes load(const fs::path& path) {
  std::error_code error;
  if (fs::exists(path, error) && !fs::is_regular_file(path, error)) {  // a pipe or a device may have no end
    throw clouds::Error(path.string() + " is no file", "give an image file");
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) throw clouds::Error("there is no file " + path.string(), "check the path");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The orientation 1..8 in an EXIF block (a TIFF header and its first directory); 1 where there is none.
int orientation(const std::uint8_t* data, std::size_t size) {
  if (size < 8 || (std::memcmp(data, "II*\0", 4) != 0 && std::memcmp(data, "MM\0*", 4) != 0)) return 1;
  const bool little = data[0] == 'I';
  const auto number = [&](std::size_t at, std::size_t count) {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < count && at + count <= size; ++i) {
      value |= std::uint32_t{data[at + i]} << (8 * (little ? i : count - 1 - i));
    }
    return value;
  };
  const std::size_t directory = number(4, 4);
  const std::size_t entries = number(directory, 2);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t at = directory + 2 + 12 * i;
    if (at + 12 > size) break;
    if (number(at, 2) == 0x0112) {
      const auto value = static_cast<int>(number(at + 8, 2));
      return value >= 1 && value <= 8 ? value : 1;
    }
  }
  return 1;
}

Picture upright(Picture in, int how) {
  if (how == 1) return in;
  const bool turned = how >= 5;
  Picture out{turned ? in.width : in.height, turned ? in.height : in.width, Bytes(in.rgb.size())};
  for (int y = 0; y < out.height; ++y) {
    for (int x = 0; x < out.width; ++x) {
      int row = turned ? x : y, column = turned ? y : x;
      if (how == 3 || how == 4 || how == 6 || how == 7) row = in.height - 1 - row;
      if (how == 2 || how == 3 || how == 7 || how == 8) column = in.width - 1 - column;
      const std::size_t from =
          (static_cast<std::size_t>(row) * static_cast<std::size_t>(in.width) + static_cast<std::size_t>(column)) * 3;
      const std::size_t to =
          (static_cast<std::size_t>(y) * static_cast<std::size_t>(out.width) + static_cast<std::size_t>(x)) * 3;
      std::copy_n(in.rgb.begin() + static_cast<std::ptrdiff_t>(from), 3,
                  out.rgb.begin() + static_cast<std::ptrdiff_t>(to));
    }
  }
  return out;
}

// What the C libraries' callbacks leave behind before they jump.
struct Fault {
  std::jmp_buf jump;
  char text[256] = "";
  const Bytes* bytes = nullptr;
  std::size_t at = 0;
};

void png_fault(png_structp png, png_const_charp text) {
  auto* fault = static_cast<Fault*>(png_get_error_ptr(png));
  std::snprintf(fault->text, sizeof fault->text, "%s", text);
  std::longjmp(fault->jump, 1);
}
void png_quiet(png_structp, png_const_charp) {}
void png_bytes(png_structp png, png_bytep out, png_size_t count) {
  auto* fault = static_cast<Fault*>(png_get_io_ptr(png));
  if (count > fault->bytes->size() - fault->at) png_error(png, "it ends too early");
  std::memcpy(out, fault->bytes->data() + fault->at, count);
  fault->at += count;
}

// 16-bit grey becomes 8-bit as Pillow-based clouds_deploy.data.images does it.
void narrow_grey(const Bytes& wide, Picture& picture) {
  const std::size_t count = wide.size() / 2;
  const auto value = [&](std::size_t i) { return static_cast<float>(wide[2 * i] * 256 + wide[2 * i + 1]); };
  float most = 0;
  for (std::size_t i = 0; i < count; ++i) most = std::max(most, value(i));
  const auto scale = static_cast<float>(255.0 / (most > 255 ? 65535.0 : 255.0));
  for (std::size_t i = 0; i < count; ++i) {
    std::fill_n(picture.rgb.begin() + static_cast<std::ptrdiff_t>(3 * i), 3,
                static_cast<std::uint8_t>(value(i) * scale));
  }
}

// Whether every chunk of a PNG lies in the file: libpng takes memory for what some of them only claim.
bool has_whole_chunks(const Bytes& bytes) {
  for (std::size_t at = 8; at + 12 <= bytes.size();) {
    const std::size_t length = std::size_t{bytes[at]} << 24 | std::size_t{bytes[at + 1]} << 16 |
                               std::size_t{bytes[at + 2]} << 8 | bytes[at + 3];
    if (length > bytes.size() - at - 12) return false;
    if (std::memcmp(&bytes[at + 4], "IEND", 4) == 0) return true;
    at += 12 + length;
  }
  return false;
}

Picture read_png(const fs::path& path, const Bytes& bytes) {
  if (!has_whole_chunks(bytes)) damaged(path, "it ends too early");
  Picture picture;
  Bytes wide;
  std::vector<png_bytep> rows;
  Fault fault;
  fault.bytes = &bytes;
  volatile int how = 1;
  bool grey16 = false;
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &fault, png_fault, png_quiet);
  png_infop info = png_create_info_struct(png);
  if (setjmp(fault.jump) != 0) {
    png_destroy_read_struct(&png, &info, nullptr);
    damaged(path, fault.text);
  }
  png_set_read_fn(png, &fault, png_bytes);
  png_read_info(png, info);
  const std::uint64_t rows_in = png_get_image_height(png, info), columns_in = png_get_image_width(png, info);
  const bool fits = rows_in * columns_in <= kLargestPixels;
  const bool filled = rows_in * png_get_rowbytes(png, info) <= bytes.size() * kMostInflated;
  if (!fits || !filled) {
    png_destroy_read_struct(&png, &info, nullptr);
    check_size(path, columns_in, rows_in);
    damaged(path, "it ends too early");
  }
  const int color = png_get_color_type(png, info);
  grey16 = color == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(png, info) == 16;
  if (!grey16) {
    png_set_strip_16(png);
    png_set_expand(png);
    png_set_gray_to_rgb(png);
    png_set_strip_alpha(png);
  }
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  picture.height = static_cast<int>(png_get_image_height(png, info));
  picture.width = static_cast<int>(png_get_image_width(png, info));
  const std::size_t row = png_get_rowbytes(png, info);
  picture.rgb.resize(static_cast<std::size_t>(picture.height) * static_cast<std::size_t>(picture.width) * 3);
  if (grey16) wide.resize(row * static_cast<std::size_t>(picture.height));
  std::uint8_t* first = grey16 ? wide.data() : picture.rgb.data();
  for (int y = 0; y < picture.height; ++y) rows.push_back(first + static_cast<std::size_t>(y) * row);
  png_read_image(png, rows.data());
  png_read_end(png, info);
#if defined(PNG_eXIf_SUPPORTED)
  png_uint_32 size = 0;
  png_bytep block = nullptr;
  if (png_get_eXIf_1(png, info, &size, &block) != 0) how = orientation(block, size);
#endif
  png_destroy_read_struct(&png, &info, nullptr);
  if (grey16) narrow_grey(wide, picture);
  return upright(std::move(picture), how);
}

#if defined(CLOUDS_JPEG)
struct JpegFault : jpeg_error_mgr {
  Fault fault;
};

void jpeg_fault(j_common_ptr jpeg) {
  auto* own = static_cast<JpegFault*>(jpeg->err);
  char text[JMSG_LENGTH_MAX];
  jpeg->err->format_message(jpeg, text);
  std::snprintf(own->fault.text, sizeof own->fault.text, "%s", text);
  std::longjmp(own->fault.jump, 1);
}
void jpeg_warning(j_common_ptr jpeg, int level) {
  if (level < 0 && jpeg->err->msg_code == JWRN_JPEG_EOF) jpeg_fault(jpeg);  // libjpeg would paint the rest grey
}

Picture read_jpeg(const fs::path& path, const Bytes& bytes) {
  Picture picture;
  JpegFault errors;
  jpeg_decompress_struct jpeg;
  volatile int how = 1;
  jpeg.err = jpeg_std_error(&errors);
  errors.error_exit = jpeg_fault;
  errors.emit_message = jpeg_warning;
  jpeg_create_decompress(&jpeg);
  if (setjmp(errors.fault.jump) != 0) {
    jpeg_destroy_decompress(&jpeg);
    damaged(path, errors.fault.text);
  }
  jpeg_mem_src(&jpeg, bytes.data(), bytes.size());
  jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(&jpeg, TRUE);
  const std::uint64_t claimed = std::uint64_t{jpeg.image_width} * jpeg.image_height;
  if (claimed > kLargestPixels || (jpeg.arith_code == 0 && claimed > bytes.size() * kMostJpegPixels)) {
    const std::uint64_t width = jpeg.image_width, height = jpeg.image_height;
    jpeg_destroy_decompress(&jpeg);
    check_size(path, width, height);
    damaged(path, "it ends too early");
  }
  for (jpeg_saved_marker_ptr marker = jpeg.marker_list; marker != nullptr; marker = marker->next) {
    if (marker->data_length > 6 && std::memcmp(marker->data, "Exif\0\0", 6) == 0) {
      how = orientation(marker->data + 6, marker->data_length - 6);
    }
  }
  jpeg.out_color_space = JCS_RGB;
  jpeg_start_decompress(&jpeg);
  picture.height = static_cast<int>(jpeg.output_height);
  picture.width = static_cast<int>(jpeg.output_width);
  const std::size_t row = static_cast<std::size_t>(picture.width) * 3;
  picture.rgb.resize(row * static_cast<std::size_t>(picture.height));
  while (jpeg.output_scanline < jpeg.output_height) {
    JSAMPROW at = picture.rgb.data() + row * jpeg.output_scanline;
    jpeg_read_scanlines(&jpeg, &at, 1);
  }
  jpeg_finish_decompress(&jpeg);
  jpeg_destroy_decompress(&jpeg);
  return upright(std::move(picture), how);
}
#else
Picture read_jpeg(const fs::path& path, const Bytes&) {
  throw clouds::Error(path.string() + " is a JPEG file, and this build reads none", "install libjpeg and build again");
}
#endif

Picture read_ppm(const fs::path& path, const Bytes& bytes) {
  int values[3] = {0, 0, 0};
  std::size_t at = 2;
  for (int& value : values) {
    while (at < bytes.size() && std::isspace(bytes[at]) != 0) ++at;
    while (at < bytes.size() && std::isdigit(bytes[at]) != 0 && value < 100000)
      value = value * 10 + (bytes[at++] - '0');
  }
  const auto [width, height, most] = values;
  check_size(path, static_cast<std::uint64_t>(width), static_cast<std::uint64_t>(height));
  const std::size_t size = static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3;
  if (++at > bytes.size() || most != 255 || size == 0 || bytes.size() - at < size) damaged(path, "no 8-bit PPM");
  const auto from = bytes.begin() + static_cast<std::ptrdiff_t>(at);
  return {height, width, Bytes(from, from + static_cast<std::ptrdiff_t>(size))};
}

}  // namespace

Picture read(const fs::path& path) { return decode(load(path), path); }

Picture decode(const Bytes& bytes, const fs::path& path) {
  const auto begins = [&](const char* text, std::size_t size) {
    return bytes.size() >= size && std::memcmp(bytes.data(), text, size) == 0;
  };
  if (begins("\x89PNG", 4)) return read_png(path, bytes);
  if (begins("\xff\xd8\xff", 3)) return read_jpeg(path, bytes);
  if (begins("P6", 2)) return read_ppm(path, bytes);
  throw clouds::Error(path.string() + " is no PNG, JPEG or PPM image, which are what this program reads",
                      "convert it to PNG, leave it out, or use `clouds-deploy predict`, which reads more formats");
}

void write_png(const fs::path& path, const std::uint8_t* pixels, int height, int width, int channels) {
  if (path.has_parent_path()) fs::create_directories(path.parent_path());
  const fs::path temporary = path.parent_path() / ("." + path.filename().string() + ".tmp");
  png_image image;
  std::memset(&image, 0, sizeof image);
  image.version = PNG_IMAGE_VERSION;
  image.height = static_cast<png_uint_32>(height);
  image.width = static_cast<png_uint_32>(width);
  image.format = channels == 3 ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY;
  image.flags = PNG_IMAGE_FLAG_FAST;
  if (png_image_write_to_file(&image, temporary.string().c_str(), 0, pixels, 0, nullptr) == 0) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw clouds::Error("cannot write " + path.string() + ": " + image.message, "check the path and the space left");
  }
  fs::rename(temporary, path);
}

bool is_image(const fs::path& path) {
  std::string suffix = path.extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(), [](unsigned char c) { return std::tolower(c); });
  return suffix == ".png" || suffix == ".jpg" || suffix == ".jpeg" || suffix == ".ppm";
}

}  // namespace images
