// Reading files that may not be what they seem.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "config/regular_file.h"

namespace fathom {
namespace {

class RegularFileTest : public testing::Test {
 protected:
  std::string path_ = testing::TempDir() + "fathom_file_" + std::to_string(::getpid());
  void TearDown() override { ::unlink(path_.c_str()); }

  std::string refusal(const std::string& path) {
    const auto file = RegularFile::open("test", path);
    return file.ok() ? "opened" : file.status().text();
  }
};

TEST_F(RegularFileTest, ReadsExactlyWhatIsAsked) {
  std::ofstream(path_) << "0123456789";
  auto file = RegularFile::open("test", path_);
  ASSERT_TRUE(file.ok()) << file.status().text();
  EXPECT_EQ(file.value().size(), 10);
  char text[5] = {};
  ASSERT_TRUE(file.value().read_at(3, text, 4).ok());
  EXPECT_STREQ(text, "3456");
  const Status past = file.value().read_at(8, text, 4);
  EXPECT_EQ(past.code(), StatusCode::device_error);
  EXPECT_NE(std::string(past.text()).find("ends at byte 10"), std::string::npos);
}

TEST_F(RegularFileTest, AFileCutWhileOpenIsAStatusNotASignal) {
  std::ofstream(path_) << std::string(100000, 'x');
  auto file = RegularFile::open("test", path_);
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(::truncate(path_.c_str(), 10), 0);
  std::string data(100000, '\0');
  EXPECT_EQ(file.value().read_at(0, data.data(), 100000).code(), StatusCode::device_error);
}

TEST_F(RegularFileTest, MovedFilesStayOpen) {
  std::ofstream(path_) << "abc";
  auto first = RegularFile::open("test", path_);
  ASSERT_TRUE(first.ok());
  RegularFile second = std::move(first).value();
  RegularFile third = std::move(second);
  char c = 0;
  ASSERT_TRUE(third.read_at(2, &c, 1).ok());
  EXPECT_EQ(c, 'c');
}

TEST_F(RegularFileTest, RefusesEverythingElse) {
  EXPECT_NE(refusal("/nowhere").find("test: cannot open /nowhere: No such file"), std::string::npos);
  EXPECT_NE(refusal("/").find("is a folder, expected a regular file"), std::string::npos);
  EXPECT_NE(refusal("/dev/null").find("is a device"), std::string::npos);
  EXPECT_NE(refusal(std::string("/etc/hosts\0x", 12)).find("holds a zero byte"), std::string::npos);
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  EXPECT_NE(refusal(path_).find("is a FIFO"), std::string::npos);
  ::unlink(path_.c_str());
  ASSERT_EQ(::symlink("/dev/zero", path_.c_str()), 0);
  EXPECT_NE(refusal(path_).find("is a device"), std::string::npos);
  ::unlink(path_.c_str());
  ASSERT_EQ(::symlink(path_.c_str(), path_.c_str()), 0);
  EXPECT_NE(refusal(path_).find("cannot open"), std::string::npos);
}

TEST_F(RegularFileTest, FollowsALinkToARegularFile) {
  const std::string target = path_ + "_target";
  std::ofstream(target) << "abc";
  ASSERT_EQ(::symlink(target.c_str(), path_.c_str()), 0);
  EXPECT_EQ(refusal(path_), "opened");
  ::unlink(target.c_str());
}

}  // namespace
}  // namespace fathom
