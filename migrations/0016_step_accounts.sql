-- The provider account that created a step's prediction, and the paid answers of a step that were unusable: both survive restarts.

-- migrate:up
ALTER TABLE blog_steps
    ADD COLUMN IF NOT EXISTS account text,
    ADD COLUMN IF NOT EXISTS unusable int NOT NULL DEFAULT 0;

-- migrate:down
ALTER TABLE blog_steps
    DROP COLUMN IF EXISTS unusable,
    DROP COLUMN IF EXISTS account;
