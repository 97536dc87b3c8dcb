-- The output tokens that a reasoning model spends before it writes: part of output_tokens, which are billed.

-- migrate:up
ALTER TABLE blog_steps ADD COLUMN IF NOT EXISTS reasoning_tokens bigint NOT NULL DEFAULT 0;
ALTER TABLE blog_generations ADD COLUMN IF NOT EXISTS reasoning_tokens bigint NOT NULL DEFAULT 0;

-- A function's columns cannot be replaced. The transaction hides its absence.
DROP FUNCTION IF EXISTS job_bill(uuid);
CREATE FUNCTION job_bill(of_job uuid)
    RETURNS TABLE (input_tokens bigint, output_tokens bigint, reasoning_tokens bigint, images int,
                   cost_nanousd bigint, in_doubt int)
    LANGUAGE sql STABLE
AS $$
    SELECT coalesce(sum(step.input_tokens), 0)::bigint, coalesce(sum(step.output_tokens), 0)::bigint,
           coalesce(sum(step.reasoning_tokens), 0)::bigint, coalesce(sum(step.images), 0)::int,
           coalesce(sum(step.cost_nanousd), 0)::bigint, coalesce(sum(step.in_doubt), 0)::int
      FROM blog_steps AS step WHERE step.job_id = of_job
$$;

-- migrate:down
DROP FUNCTION IF EXISTS job_bill(uuid);
CREATE FUNCTION job_bill(of_job uuid)
    RETURNS TABLE (input_tokens bigint, output_tokens bigint, images int, cost_nanousd bigint, in_doubt int)
    LANGUAGE sql STABLE
AS $$
    SELECT coalesce(sum(step.input_tokens), 0)::bigint, coalesce(sum(step.output_tokens), 0)::bigint,
           coalesce(sum(step.images), 0)::int, coalesce(sum(step.cost_nanousd), 0)::bigint,
           coalesce(sum(step.in_doubt), 0)::int
      FROM blog_steps AS step WHERE step.job_id = of_job
$$;
ALTER TABLE blog_generations DROP COLUMN IF EXISTS reasoning_tokens;
ALTER TABLE blog_steps DROP COLUMN IF EXISTS reasoning_tokens;
