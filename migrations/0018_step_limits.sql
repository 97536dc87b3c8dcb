-- What limits the repeats of a step since the last retry by a user, beside the sums for bills: counted_retries names the
-- retry that isolated_in_doubt, counted_unusable and gave_up belong to. And the attempts with a late answer, so that each is added once.

-- migrate:up
ALTER TABLE blog_steps
    ADD COLUMN IF NOT EXISTS counted_retries int NOT NULL DEFAULT 0,
    -- In-doubt calls that no outage explains: other jobs were served meanwhile, or a worker died.
    ADD COLUMN IF NOT EXISTS isolated_in_doubt int NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS counted_unusable int NOT NULL DEFAULT 0,
    -- The error code of a step that is not repeated. A worker may stop before it fails the job.
    ADD COLUMN IF NOT EXISTS gave_up text,
    ADD COLUMN IF NOT EXISTS late_attempts int[] NOT NULL DEFAULT '{}';

-- migrate:down
ALTER TABLE blog_steps
    DROP COLUMN IF EXISTS late_attempts,
    DROP COLUMN IF EXISTS gave_up,
    DROP COLUMN IF EXISTS counted_unusable,
    DROP COLUMN IF EXISTS isolated_in_doubt,
    DROP COLUMN IF EXISTS counted_retries;
