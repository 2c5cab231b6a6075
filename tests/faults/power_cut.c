/* Preloaded: what a power cut leaves. Whatever is synced is copied to $POWER_CUT_LEAVES, as it is at that moment; what was
   written since, and files that never were synced, are not there; files that were deleted are, until their directory is
   synced. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void forget_deleted(const char *directory, const char *left)
{
    char path[PATH_MAX];
    struct dirent *entry;
    DIR *all = opendir(left);
    while (all && (entry = readdir(all))) {
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        if (entry->d_name[0] != '.' && !strstr(entry->d_name, ".partial") && access(path, F_OK)) {
            snprintf(path, sizeof path, "%s/%s", left, entry->d_name);
            unlink(path);
        }
    }
    if (all)
        closedir(all);
}

static void leave(int fd)
{
    const char *to = getenv("POWER_CUT_LEAVES");
    char link[64], from[PATH_MAX], path[PATH_MAX], partial[PATH_MAX + 32], buffer[1 << 16];
    struct stat found;
    if (!to || fstat(fd, &found) || !(S_ISREG(found.st_mode) || S_ISDIR(found.st_mode)))
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, from, sizeof from - 1);
    if (length < 0)
        return;
    from[length] = 0;
    if (S_ISDIR(found.st_mode)) {
        forget_deleted(from, to);
        return;
    }
    snprintf(path, sizeof path, "%s/%s", to, strrchr(from, '/') + 1);
    snprintf(partial, sizeof partial, "%s.%d.%ld.partial", path, fd, (long)gettid());
    int out = open(partial, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (out < 0)
        abort();
    off_t at = 0;
    while ((length = pread(fd, buffer, sizeof buffer, at)) > 0) {
        if (write(out, buffer, length) != length)
            abort();
        at += length;
    }
    close(out);
    if (rename(partial, path))
        abort();
}

int fsync(int fd)
{
    static int (*real)(int);
    if (!real)
        real = dlsym(RTLD_NEXT, "fsync");
    int result = real(fd);
    if (!result)
        leave(fd);
    return result;
}

int fdatasync(int fd)
{
    static int (*real)(int);
    if (!real)
        real = dlsym(RTLD_NEXT, "fdatasync");
    int result = real(fd);
    if (!result)
        leave(fd);
    return result;
}
