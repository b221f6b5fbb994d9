#include "bundle_writer.hpp"

#include <utility>

#include "bundle.hpp"
#include "clouds/error.hpp"
#include "files.hpp"
#include "names.hpp"

#if defined(_WIN32)
#include <process.h>
#else
#include <unistd.h>
#endif
#if defined(__linux__)
#include <fcntl.h>
#include <stdio.h>
#endif

namespace clouds {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void cannot_write(const fs::path& path, const std::error_code& error) {
  throw Error(path.string() + " cannot be written: " + error.message(), "check the path and the space left");
}

// The same file under another name where the file system can, a copy where it cannot.
void bring(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::create_directories(to.parent_path(), error);
  fs::create_hard_link(fs::canonical(from, error), to, error);
  if (error) fs::copy_file(from, to, error);
  if (error) cannot_write(to, error);
}

void change_places(const fs::path& made, const fs::path& bundle) {
#if defined(__linux__) && defined(RENAME_EXCHANGE)
  if (renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, bundle.c_str(), RENAME_EXCHANGE) == 0) return;
#endif
  fs::path old = made;
  old += ".old";
  std::error_code error;
  fs::rename(bundle, old, error);
  if (error) cannot_write(bundle, error);
  fs::rename(made, bundle, error);
  if (error) {
    std::error_code ignored;
    fs::rename(old, bundle, ignored);
    cannot_write(bundle, error);
  }
  fs::rename(old, made, error);
}

FileEntry entry_of(const fs::path& path) {
  std::error_code error;
  return {fs::file_size(path, error), sha256_of(path)};
}

}  // namespace

void add_engine(const fs::path& given, const std::string& kind, EngineEntry entry,
                const std::vector<std::uint8_t>& plan, const std::function<void(const fs::path&)>& prove) {
  const Manifest manifest = check_directory(given, kind, true);
  std::error_code error;
  const fs::path bundle = fs::canonical(given, error);
  if (error) cannot_write(given, error);
  const std::string facts = "bundle.json", sealed = "manifest.json";
  fs::path made = bundle.parent_path();
  made /= "." + bundle.filename().string() + ".tmp-" + std::to_string(getpid());
  if (!fs::create_directory(made, error)) {
    if (error) cannot_write(made, error);
    throw Error(made.string() + " is there already", "remove it, if no other process is at work");
  }
  try {
    for (const auto& [name, ignored] : manifest.files) {
      if (name != facts && name != entry.file) bring(bundle / fs::u8path(name), made / fs::u8path(name));
    }
    for (fs::recursive_directory_iterator at(bundle / kProofs, error), end; !error && at != end; at.increment(error)) {
      if (at->is_regular_file(error)) bring(at->path(), made / at->path().lexically_relative(bundle));
    }
    const fs::path engine = inside(made, entry.file, "the new engine");
    fs::create_directories(engine.parent_path(), error);
    write_file(engine, plan.data(), plan.size());
    const FileEntry own = entry_of(engine);
    entry.sha256 = own.sha256;
    entry.bytes = own.bytes;
    const std::string changed = with_engine(read_text(bundle / facts, kLargestDocument), facts, entry);
    write_file(made / facts, changed.data(), changed.size());
    const std::string whole = with_files(read_text(bundle / sealed, kLargestDocument), sealed,
                                         {{facts, entry_of(made / facts)}, {entry.file, own}});
    write_file(made / sealed, whole.data(), whole.size());
    check_directory(made, kind, false);
    if (prove) prove(made);
    change_places(made, bundle);
  } catch (...) {
    fs::remove_all(made, error);
    throw;
  }
  fs::remove_all(made, error);  // the bundle as it was
}

}  // namespace clouds
