// Names from elsewhere as paths below a folder; as clouds_deploy.artifacts.names, with its words.
#pragma once

#include <filesystem>
#include <string>

namespace clouds {

// What is wrong with a name as a path below a folder, for messages; empty if nothing is. The name is UTF-8.
std::string name_fault(const std::string& name);

// The path of a name below a folder. Throws Error where the name leads out of it, also by a link, or where what is there
// is neither a file nor a folder; `where` is what holds the name.
std::filesystem::path inside(const std::filesystem::path& root, const std::string& name, const std::string& where);

// A name for a message: in backquotes, short, control characters escaped.
std::string shown_name(const std::string& name);

}  // namespace clouds
