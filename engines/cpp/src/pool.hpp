// A pool of objects that one thread at a time may use.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace clouds {

template <typename Thing>
class Pool {
 public:
  using Make = std::function<std::unique_ptr<Thing>()>;

  // most: how many there may be; 0 sets no limit: an object is made whenever none is free.
  Pool(Make make, std::size_t most) : make_(std::move(make)), most_(most) {}

  class Loan {
   public:
    Loan(Pool& pool, std::unique_ptr<Thing> thing) : pool_(pool), thing_(std::move(thing)) {}
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    ~Loan() { pool_.give_back(std::move(thing_)); }
    Thing& operator*() { return *thing_; }
    Thing* operator->() { return thing_.get(); }

   private:
    Pool& pool_;
    std::unique_ptr<Thing> thing_;
  };

  // Waits while all are in use.
  Loan lend() { return Loan(*this, take()); }

 private:
  std::unique_ptr<Thing> take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !free_.empty() || most_ == 0 || made_ < most_; });
    if (!free_.empty()) {
      auto thing = std::move(free_.back());
      free_.pop_back();
      return thing;
    }
    ++made_;
    free_.reserve(made_);  // so that returning one never allocates
    lock.unlock();
    try {
      return make_();
    } catch (...) {
      lock.lock();
      --made_;
      changed_.notify_one();
      throw;
    }
  }

  void give_back(std::unique_ptr<Thing> thing) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(thing));
    changed_.notify_one();
  }

  Make make_;
  std::size_t most_;
  std::size_t made_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Thing>> free_;
};

}  // namespace clouds
