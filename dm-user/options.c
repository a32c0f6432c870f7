// SPDX-License-Identifier: GPL-2.0-only
/*
 * The words of a table line and of a message: parsing, and writing them back.
 *
 * dmu_options_show() writes what dmu_options_parse() reads, word for word, so
 * that a table taken from "dmsetup table" can be loaded again. Options that
 * were not given are not written, and keep following their defaults.
 */
#include <linux/ctype.h>

#include "dm-user.h"

#define DMU_LOGICAL_BLOCK_MIN	SECTOR_SIZE
#define DMU_LOGICAL_BLOCK_MAX	4096U
/* As large as devices have them. */
#define DMU_PHYSICAL_BLOCK_MAX	BIT(20)
#define DMU_GRANULARITY_MAX	BIT(30)
#define DMU_SECTORS_MAX		BIT(22)

/* With the "dm-user/" of the node it stays below what a path component may be. */
#define DMU_NAME_MAX	127

static const struct {
	const char *name;
	bool has_value;
} dmu_words[DMU_NR_OPTS] = {
	[DMU_OPT_NEW_MS] = { "new_ms", true },
	[DMU_OPT_ORPHAN_MS] = { "orphan_ms", true },
	[DMU_OPT_STUCK_MS] = { "stuck_ms", true },
	[DMU_OPT_UNFENCED] = { "unfenced", true },
	[DMU_OPT_READ_ONLY] = { "read_only", false },
	[DMU_OPT_NO_FLUSH] = { "no_flush", false },
	[DMU_OPT_DISCARD] = { "discard", false },
	[DMU_OPT_WRITE_ZEROES] = { "write_zeroes", false },
	[DMU_OPT_SECURE_ERASE] = { "secure_erase", false },
	[DMU_OPT_MAX_IO] = { "max_io", true },
	[DMU_OPT_LOGICAL_BLOCK] = { "logical_block", true },
	[DMU_OPT_PHYSICAL_BLOCK] = { "physical_block", true },
	[DMU_OPT_DISCARD_GRANULARITY] = { "discard_granularity", true },
	[DMU_OPT_MAX_DISCARD] = { "max_discard", true },
	[DMU_OPT_REDIRECT] = { "redirect", true },
};

static const char *const dmu_unfenced_names[DMU_NR_UNFENCED] = {
	[DMU_UNFENCED_FAIL] = "fail",
	[DMU_UNFENCED_HOLD] = "hold",
	[DMU_UNFENCED_REQUEUE] = "requeue",
};

/**
 * dmu_name_check() - May this be the name of a control node?
 * @name: as in the table
 *
 * It becomes a path below /dev/dm-user and, with '!' for '/', a name in sysfs,
 * and it must come back from "dmsetup table" as one word: hence neither '!'
 * nor a backslash.
 *
 * Return: NULL if it may, else the reason.
 */
const char *dmu_name_check(const char *name)
{
	size_t len = strlen(name), start = 0, i;

	if (!len)
		return "Control name is empty";
	if (len > DMU_NAME_MAX)
		return "Control name is longer than 127 bytes";
	for (i = 0; i < len; i++)
		if (!isascii(name[i]) || !isgraph(name[i]) ||
		    name[i] == '!' || name[i] == '\\')
			return "Control name has a character that is not allowed";
	for (i = 0; i <= len; i++) {
		if (name[i] && name[i] != '/')
			continue;
		if (i == start)
			return "Control name has an empty component";
		if (name[start] == '.' &&
		    (i == start + 1 || (i == start + 2 && name[start + 1] == '.')))
			return "Control name has a component '.' or '..'";
		start = i + 1;
	}
	return NULL;
}

static int dmu_parse_ms(const char *value, u32 *ms)
{
	u32 v;

	if (!strcmp(value, "forever")) {
		*ms = DMU_FOREVER;
		return 0;
	}
	if (kstrtou32(value, 10, &v) || v > DMU_MS_MAX)
		return -EINVAL;
	*ms = v;
	return 0;
}

/* A power of two from a sector to @max. */
static int dmu_parse_block(const char *value, u32 max, u32 *bytes)
{
	u32 v;

	if (kstrtou32(value, 10, &v) || !is_power_of_2(v) ||
	    v < DMU_LOGICAL_BLOCK_MIN || v > max)
		return -EINVAL;
	*bytes = v;
	return 0;
}

static int dmu_parse_sectors(const char *value, u32 *sectors)
{
	u32 v;

	if (kstrtou32(value, 10, &v) || !v || v > DMU_SECTORS_MAX)
		return -EINVAL;
	*sectors = v;
	return 0;
}

static int dmu_set_value(struct dmu_options *opts, enum dmu_feature which,
			 const char *value, char **error)
{
	int i;

	switch (which) {
	case DMU_OPT_UNFENCED:
		*error = "unfenced must be fail, hold or requeue";
		i = match_string(dmu_unfenced_names, DMU_NR_UNFENCED, value);
		if (i < 0)
			return -EINVAL;
		opts->unfenced = i;
		return 0;
	case DMU_OPT_MAX_IO:
		*error = "max_io must be a number of sectors, 1 to 4194304";
		return dmu_parse_sectors(value, &opts->max_io_sectors);
	case DMU_OPT_MAX_DISCARD:
		*error = "max_discard must be a number of sectors, 1 to 4194304";
		return dmu_parse_sectors(value, &opts->max_discard_sectors);
	case DMU_OPT_LOGICAL_BLOCK:
		*error = "logical_block must be 512, 1024, 2048 or 4096 bytes";
		return dmu_parse_block(value, DMU_LOGICAL_BLOCK_MAX,
				       &opts->logical_block_bytes);
	case DMU_OPT_PHYSICAL_BLOCK:
		*error = "physical_block must be a power of two, 512 to 1048576 bytes";
		return dmu_parse_block(value, DMU_PHYSICAL_BLOCK_MAX,
				       &opts->physical_block_bytes);
	case DMU_OPT_DISCARD_GRANULARITY:
		*error = "discard_granularity must be a power of two, 512 to 1073741824 bytes";
		return dmu_parse_block(value, DMU_GRANULARITY_MAX,
				       &opts->discard_granularity_bytes);
	default:
		*error = "A deadline must be 0 to 2147483647 milliseconds, or forever";
		return dmu_parse_ms(value, &opts->ms[which - DMU_OPT_NEW_MS]);
	}
}

/**
 * dmu_options_set() - Take one option, from a table or a message
 * @opts: changed only on success
 * @name: the option's word
 * @value: the word after it, NULL if there is none
 * @error: set to the reason on failure
 *
 * Return: how many words were used, or -EINVAL.
 */
int dmu_options_set(struct dmu_options *opts, const char *name,
		    const char *value, char **error)
{
	struct dmu_options new = *opts;
	unsigned int i;
	int r = 0;

	for (i = 0; i < DMU_NR_OPTS; i++)
		if (!strcmp(name, dmu_words[i].name))
			break;
	if (i == DMU_NR_OPTS) {
		*error = "Unknown feature";
		return -EINVAL;
	}
	if (dmu_words[i].has_value) {
		if (!value) {
			*error = "A feature lacks its value";
			return -EINVAL;
		}
		r = dmu_set_value(&new, i, value, error);
		if (r)
			return r;
	}
	__set_bit(i, &new.given);
	*opts = new;
	return dmu_words[i].has_value ? 2 : 1;
}

/*
 * Takes "redirect <max_extents> <n> <dev>...", whose names stay where they are
 * until the devices are opened. Returns how many words were used.
 */
static int dmu_set_redirect(struct dmu_options *opts, char **words,
			    unsigned int nr, char **error)
{
	*error = "redirect must have a number of extents, 1 to 16777216";
	if (nr < 3 || kstrtou32(words[1], 10, &opts->max_extents) ||
	    !opts->max_extents || opts->max_extents > DMU_EXTENTS_MAX)
		return -EINVAL;
	*error = "redirect must have 1 to 16 devices, and say how many";
	if (kstrtou32(words[2], 10, &opts->nr_devices) || !opts->nr_devices ||
	    opts->nr_devices > DMU_DEVICES_MAX || opts->nr_devices > nr - 3)
		return -EINVAL;
	opts->device_names = words + 3;
	__set_bit(DMU_OPT_REDIRECT, &opts->given);
	return 3 + opts->nr_devices;
}

/**
 * dmu_options_parse() - Take the feature arguments of a table line
 * @opts: filled in
 * @as: arguments left, from the count on; none at all is Android's form
 * @error: set to the reason on failure
 *
 * Return: 0 or -EINVAL.
 */
int dmu_options_parse(struct dmu_options *opts, struct dm_arg_set *as,
		      char **error)
{
	static const struct dm_arg count = {
		.min = 0,
		.max = 2 * DMU_NR_OPTS + 1 + DMU_DEVICES_MAX,
		.error = "Invalid number of feature arguments",
	};
	unsigned int left;
	int r;

	memset(opts, 0, sizeof(*opts));
	opts->logical_block_bytes = DMU_LOGICAL_BLOCK_MIN;
	if (!as->argc)
		return 0;

	r = dm_read_arg_group(&count, as, &left, error);
	if (r)
		return r;
	if (left != as->argc) {
		*error = "More arguments than the number of features says";
		return -EINVAL;
	}
	while (left) {
		unsigned long before = opts->given;

		if (!strcmp(as->argv[0], dmu_words[DMU_OPT_REDIRECT].name))
			r = dmu_set_redirect(opts, as->argv, left, error);
		else
			r = dmu_options_set(opts, as->argv[0],
					    left > 1 ? as->argv[1] : NULL, error);
		if (r < 0)
			return r;
		if (before == opts->given) {
			*error = "A feature is given twice";
			return -EINVAL;
		}
		dm_consume_args(as, r);
		left -= r;
	}
	return 0;
}

static unsigned int dmu_show_value(const struct dmu_options *opts,
				   enum dmu_feature which, char *result,
				   unsigned int maxlen)
{
	unsigned int sz = 0;
	u32 value, i;

	switch (which) {
	case DMU_OPT_UNFENCED:
		DMEMIT(" %s", dmu_unfenced_names[opts->unfenced]);
		return sz;
	case DMU_OPT_REDIRECT:
		DMEMIT(" %u %u", opts->max_extents, opts->nr_devices);
		for (i = 0; i < opts->nr_devices; i++)
			DMEMIT(" %s", opts->devices[i]->name);
		return sz;
	case DMU_OPT_MAX_IO:
		value = opts->max_io_sectors;
		break;
	case DMU_OPT_LOGICAL_BLOCK:
		value = opts->logical_block_bytes;
		break;
	case DMU_OPT_PHYSICAL_BLOCK:
		value = opts->physical_block_bytes;
		break;
	case DMU_OPT_DISCARD_GRANULARITY:
		value = opts->discard_granularity_bytes;
		break;
	case DMU_OPT_MAX_DISCARD:
		value = opts->max_discard_sectors;
		break;
	default:
		value = opts->ms[which - DMU_OPT_NEW_MS];
		break;
	}
	if (value == DMU_FOREVER)
		DMEMIT(" forever");
	else
		DMEMIT(" %u", value);
	return sz;
}

/**
 * dmu_options_show() - Write options as a table line has them
 * @opts: options
 * @result: where to
 * @maxlen: room there
 *
 * Return: bytes written, with a leading space; 0 if no option was given.
 */
unsigned int dmu_options_show(const struct dmu_options *opts, char *result,
			      unsigned int maxlen)
{
	unsigned int sz = 0, words = 0;
	unsigned long i;

	if (!opts->given)
		return 0;
	for_each_set_bit(i, &opts->given, DMU_NR_OPTS)
		words += dmu_words[i].has_value ? 2 : 1;
	if (test_bit(DMU_OPT_REDIRECT, &opts->given))
		words += 1 + opts->nr_devices;
	DMEMIT(" %u", words);
	for_each_set_bit(i, &opts->given, DMU_NR_OPTS) {
		DMEMIT(" %s", dmu_words[i].name);
		if (dmu_words[i].has_value)
			sz += dmu_show_value(opts, i, result + sz, maxlen - sz);
	}
	return sz;
}
