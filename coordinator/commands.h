/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of `caravan`, one file each. argv[0] is the command's name. Each returns the
 * program's exit status: 0, 1 for a failure that was explained on standard error, 2 for usage. */
#ifndef COORDINATOR_COMMANDS_H
#define COORDINATOR_COMMANDS_H

int command_run(int argc, char **argv);
int command_serve(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_tokenize(int argc, char **argv);
int command_detokenize(int argc, char **argv);
int command_inspect(int argc, char **argv);
int command_mkmodel(int argc, char **argv);
int command_keygen(int argc, char **argv);
int command_status(int argc, char **argv);
int command_drain(int argc, char **argv);
int command_cache(int argc, char **argv);
int command_plan(int argc, char **argv);
int command_template(int argc, char **argv);

#endif
