/* services NAME [FILE]: memory that is asked for on the program's behalf, by name. Nothing else in it calls malloc.
 *
 *   dlopen     FILE is a library: it is opened, used by two threads, and closed
 *   iconv      opens a conversion that is in a file of its own, and converts
 *   locale     sets the locale of the environment
 *   resolve    looks up a name and a port
 *   lines      reads FILE line by line, and a directory
 *   mapped     reads FILE through a stream that maps it
 *   popen      reads what another program prints
 *   copies     strdup, reallocarray and their like
 *   jit        makes code in a mapping that can be written and run; that code maps memory itself
 *   stacks     threads with stacks of their own size and guard, one after another
 */
#define _GNU_SOURCE
#include "fixture.h"

#include <dirent.h>
#include <dlfcn.h>
#include <iconv.h>
#include <locale.h>
#include <netdb.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *file;
static size_t (*use)(int);

static void check(int holds)
{
    if (!holds)
        _exit(9);
}

static void *use_in_thread(void *nothing)
{
    use(2);
    return nothing;
}

static void open_library(void)
{
    pthread_t thread;
    void *library = dlopen(file, RTLD_NOW);

    check(library != NULL);
    use = (size_t (*)(int))dlsym(library, "use_plugin");
    check(use != NULL && use(1) == 1);
    check(pthread_create(&thread, NULL, use_in_thread, NULL) == 0 && pthread_join(thread, NULL) == 0);
    check(dlclose(library) == 0);
}

static void convert(void)
{
    char from[] = "some text", to[64], *in = from, *out = to;
    size_t left = sizeof from, room = sizeof to;
    iconv_t conversion = iconv_open("UTF-16", "ISO-8859-1");

    check(conversion != (iconv_t)-1);
    check(iconv(conversion, &in, &left, &out, &room) == 0);
    iconv_close(conversion);
}

static void set_locale(void)
{
    check(setlocale(LC_ALL, "") != NULL);
}

static void resolve(void)
{
    struct addrinfo *found = NULL, wish = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};

    if (getaddrinfo("127.0.0.1", "80", &wish, &found) == 0)
        freeaddrinfo(found);
}

static void read_lines(void)
{
    char *line = NULL;
    size_t size = 0;
    FILE *stream = fopen(file, "r");
    DIR *folder = opendir("/proc/self/task");

    check(stream != NULL && folder != NULL);
    while (getline(&line, &size, stream) > 0)
        ;
    closedir(folder);
    fclose(stream);
    free(line);
}

static void read_mapped(void)
{
    FILE *stream = fopen(file, "rm");

    check(stream != NULL && fgetc(stream) != EOF);
    fclose(stream);
}

static void read_program(void)
{
    char text[64];
    FILE *stream = popen("echo text", "r");

    check(stream != NULL && fgets(text, sizeof text, stream) != NULL);
    pclose(stream);
}

static void copy(void)
{
    static char text[400000];
    char *copies[4];

    memset(text, 'x', sizeof text - 1);
    copies[0] = strdup(text);
    copies[1] = strndup(text, 300000);
    copies[2] = reallocarray(NULL, 1000, 250);
    copies[2] = reallocarray(copies[2], 1000, 900);
    copies[3] = aligned_alloc(4096, 1 << 19);
    for (int i = 0; i < 4; i++) {
        check(copies[i] != NULL);
        free(copies[i]);
    }
}

/* mmap(0, 0x5000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) as machine code. */
static const unsigned char code[] = {
    0x31, 0xff, 0xbe, 0x00, 0x50, 0x00, 0x00, 0xba, 0x03, 0x00, 0x00, 0x00, 0x41, 0xba, 0x22, 0x00, 0x00, 0x00, 0x49,
    0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff, 0x45, 0x31, 0xc9, 0xb8, 0x09, 0x00, 0x00, 0x00, 0x0f, 0x05, 0xc3,
};

static void make_code(void)
{
    void *place = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    long made;

    check(place != MAP_FAILED);
    memcpy(place, code, sizeof code);
    made = ((long (*)(void))place)();
    check(made > 0);
    munmap((void *)made, 0x5000);
    munmap(place, 4096);
}

static void *rest(void *nothing)
{
    return nothing;
}

static void run_threads(void)
{
    static const size_t sizes[] = {64 << 10, 1 << 20, 64 << 20};
    pthread_attr_t wish;
    pthread_t thread;

    for (int i = 0; i < 3; i++) {
        check(pthread_attr_init(&wish) == 0);
        check(pthread_attr_setstacksize(&wish, sizes[i]) == 0);
        check(pthread_attr_setguardsize(&wish, (size_t)i * 8192) == 0);
        check(pthread_create(&thread, &wish, rest, NULL) == 0 && pthread_join(thread, NULL) == 0);
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } modes[] = {
        {"dlopen", open_library}, {"iconv", convert},       {"locale", set_locale}, {"resolve", resolve},
        {"lines", read_lines},    {"mapped", read_mapped},  {"popen", read_program}, {"copies", copy},
        {"jit", make_code},       {"stacks", run_threads},
    };

    check(argc > 1);
    file = argv[argc - 1];
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (strcmp(argv[1], modes[i].name) == 0) {
            modes[i].run();
            stop_here();
            return 0;
        }
    return 2;
}
