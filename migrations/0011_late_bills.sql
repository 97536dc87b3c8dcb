-- What a job has cost so far, in one place; and cancelled jobs whose worker has not let go, found without a search. Built concurrently: writers go on.

-- migrate:up transaction=false
CREATE OR REPLACE FUNCTION job_bill(of_job uuid)
    RETURNS TABLE (input_tokens bigint, output_tokens bigint, images int, cost_nanousd bigint, in_doubt int)
    LANGUAGE sql STABLE
AS $$
    SELECT coalesce(sum(step.input_tokens), 0)::bigint, coalesce(sum(step.output_tokens), 0)::bigint,
           coalesce(sum(step.images), 0)::int, coalesce(sum(step.cost_nanousd), 0)::bigint,
           coalesce(sum(step.in_doubt), 0)::int
      FROM blog_steps AS step WHERE step.job_id = of_job
$$;

CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_blog_generations_cancelled_lease
    ON blog_generations (lease_until) WHERE status = 'CANCELLED' AND lease_until IS NOT NULL;

-- migrate:down
DROP INDEX IF EXISTS idx_blog_generations_cancelled_lease;
DROP FUNCTION IF EXISTS job_bill(uuid);
