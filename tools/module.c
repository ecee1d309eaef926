/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "module.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A line that begins with a module's name, or with its file: path/NAME.ko.xz: ... */
static bool line_names(const char *line, const char *name)
{
	size_t length = strcspn(line, " :\n"), i;
	const char *word = line;

	for (i = 0; i < length; i++)
		if (line[i] == '/')
			word = line + i + 1;
	length -= (size_t)(word - line);
	/* A file may have - where the module has _. */
	for (i = 0; name[i]; i++)
		if (i == length || (word[i] == '-' ? '_' : word[i]) != name[i])
			return false;
	return i == length || strncmp(word + i, ".ko", 3) == 0;
}

static bool file_names(const char *path, const char *name)
{
	FILE *file = fopen(path, "re");
	bool found = false;
	char *line = NULL;
	size_t room = 0;

	if (!file)
		return false;
	while (!found && getline(&line, &room, file) >= 0)
		found = line_names(line, name);
	free(line);
	fclose(file);
	return found;
}

struct path {
	char text[512];
};

/* DIRECTORY/NAME/FILE, or DIRECTORY/NAME. */
static struct path path_of(const char *directory, const char *name, const char *file)
{
	struct path p;

	snprintf(p.text, sizeof p.text, "%s/%s%s%s", directory, name, file ? "/" : "",
		 file ? file : "");
	return p;
}

static bool exists(struct path path)
{
	return access(path.text, F_OK) == 0;
}

#define LOADED "/sys/module"
#define INSTALLED "/lib/modules"

enum module_state module_look(const char *name, const char *release)
{
	struct path builtin = path_of(INSTALLED, release, "modules.builtin");
	struct path all = path_of(INSTALLED, release, "modules.dep");

	if (file_names("/proc/modules", name) || exists(path_of(LOADED, name, "initstate")))
		return MODULE_LOADED;
	if (exists(path_of(LOADED, name, NULL)) || file_names(builtin.text, name))
		return MODULE_BUILT_IN;
	if (file_names(all.text, name))
		return MODULE_AVAILABLE;
	return exists(all) ? MODULE_MISSING : MODULE_HIDDEN;
}
