/* Starts an aarch64 program under qemu-user. `run` compiles this file and gives it to the kernel as the interpreter of such programs.
 *
 * qemu-user has no PR_SET_CHILD_SUBREAPER. The attribute belongs to the process and survives an exec, so a serving agent gets it here.
 */
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel gives, after this program: the path of the aarch64 program, its argv[0], its other arguments. */
int main(int count, char **given)
{
    char *arguments[count + 2];
    unsigned long default_action[4] = {0};
    int used = 0;
    /* GNU make leaves a signal of the C library ignored, and qemu-user lets no program change that. */
    syscall(SYS_rt_sigaction, 32, default_action, NULL, 8UL);
    if (count > 3 && !strcmp(given[3], "serve"))
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    arguments[used++] = "qemu-aarch64";
    arguments[used++] = "-0";
    arguments[used++] = given[2];
    arguments[used++] = given[1];
    for (int next = 3; next <= count; next++)
        arguments[used++] = given[next];
    execv("/usr/bin/qemu-aarch64", arguments);
    perror("/usr/bin/qemu-aarch64");
    return 127;
}
