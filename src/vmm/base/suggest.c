/* suggest.c: see suggest.h. */
#include "vmm/base/suggest.h"

#include <stdio.h>
#include <string.h>

#define WORD_MAX 48

/* Levenshtein's distance of two words of at most WORD_MAX letters, row by row. */
static u32 edit_distance(const char *a, const char *b)
{
	u32 row[WORD_MAX + 1], len = (u32)strlen(b);

	for (u32 j = 0; j <= len; j++)
		row[j] = j;
	for (u32 i = 1; a[i - 1]; i++) {
		u32 diagonal = row[0];

		row[0] = i;
		for (u32 j = 1; j <= len; j++) {
			u32 change = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			row[j] = MIN(change, MIN(row[j], row[j - 1]) + 1);
		}
	}
	return row[len];
}

void suggest_init(struct suggest *s, const char *word)
{
	/* A third of the letters may be wrong: more is a different word. */
	*s = (struct suggest){.word = word, .distance = (u32)strlen(word) / 3 + 1};
}

void suggest_try(struct suggest *s, const char *known)
{
	u32 distance;

	if (!*s->word || strlen(s->word) > WORD_MAX || strlen(known) > WORD_MAX)
		return;
	distance = strncmp(known, s->word, strlen(s->word)) ? edit_distance(s->word, known) : 1; /* the beginning of a word is near it */
	if (distance <= s->distance && (!s->best || distance < s->distance)) {
		s->best = known;
		s->distance = distance;
	}
}

const char *suggest_text(struct suggest *s, const char *prefix)
{
	if (s->best)
		snprintf(s->text, sizeof(s->text), " (did you mean %s%s?)", prefix, s->best);
	return s->text;
}
