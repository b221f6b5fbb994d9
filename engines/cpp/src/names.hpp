// Names from elsewhere as paths below a folder; as clouds_deploy.artifacts.names, with its words.
#pragma once

#include <filesystem>
#include <string>

namespace clouds {

// What to do about a directory or file that no honest writer makes.
inline constexpr const char* kTampered = "don't use it: it was tampered with";

// What is wrong with a name as a path below a folder, for messages; empty if nothing is. The name is UTF-8.
std::string name_fault(const std::string& name);

// Whether links on the way to a path lead out of a folder.
bool leads_out(const std::filesystem::path& path, const std::filesystem::path& root);

// The path of a name below a folder. Throws Error where the name leads out of it, also by a link; `where` is what holds
// the name.
std::filesystem::path inside(const std::filesystem::path& root, const std::string& name, const std::string& where);

// A name for a message: in backquotes, short, control characters escaped.
std::string shown_name(const std::string& name);

}  // namespace clouds
