-- name: saved_states
-- Locks these jobs and returns their states with the cost of their steps.
SELECT job.id, job.status, job.attempt, saved.done, bill.input_tokens, bill.output_tokens,
       bill.reasoning_tokens, bill.images, bill.cost_nanousd
  FROM blog_generations AS job
       CROSS JOIN LATERAL job_bill(job.id) AS bill
       CROSS JOIN LATERAL (
           SELECT coalesce(array_agg(step) FILTER (WHERE state = 'DONE'), '{}') AS done
             FROM blog_steps WHERE job_id = job.id) AS saved
 WHERE job.id = ANY ($1::uuid[])
   FOR UPDATE OF job;

-- name: add_lost_usage
-- Adds the usage of lost results to the job's bill: to the first step, because the step is unknown.
INSERT INTO blog_steps AS step (job_id, step, state, attempt, finished_at, input_tokens,
                                output_tokens, images, cost_nanousd, reasoning_tokens)
VALUES ($1, 'outline', 'FAILED', $2, now(), $3, $4, $5, $6, $7)
ON CONFLICT (job_id, step) DO UPDATE
   SET input_tokens = step.input_tokens + excluded.input_tokens,
       output_tokens = step.output_tokens + excluded.output_tokens,
       images = step.images + excluded.images,
       cost_nanousd = step.cost_nanousd + excluded.cost_nanousd,
       reasoning_tokens = step.reasoning_tokens + excluded.reasoning_tokens;

-- name: mark_step_in_doubt
-- Marks a step in doubt: its result is lost and its cost unknown. An image with an external id is
-- not lost, because the next attempt resumes it.
INSERT INTO blog_steps AS step (job_id, step, state, attempt, finished_at, in_doubt)
VALUES ($1, $2, 'FAILED', $3, now(), 1)
ON CONFLICT (job_id, step) DO UPDATE
   SET state = 'FAILED', finished_at = now(), in_doubt = step.in_doubt + 1
 WHERE step.external_id IS NULL AND step.state <> 'DONE';

-- name: correct_job
-- Sets a job's final state again or requeues it. Like a user's retry, requeueing uses an attempt
-- number; neither that attempt nor the lost ones count against the job's tries.
UPDATE blog_generations AS job
   SET status = $2, attempt = $3, intervened_at = now(), forwarded_at = NULL, lease_until = NULL,
       retries = retries + ($2 = 'PENDING')::int,
       blameless = blameless + CASE WHEN $2 = 'PENDING' THEN $3 - attempt ELSE 0 END,
       started_at = CASE WHEN $2 = 'PENDING' THEN NULL ELSE started_at END,
       finished_at = $4, error = $5,
       error_code = CASE $2 WHEN 'PENDING' THEN NULL WHEN 'CANCELLED' THEN 'cancelled'
                            ELSE 'restored' END,
       input_tokens = bill.input_tokens, output_tokens = bill.output_tokens,
       reasoning_tokens = bill.reasoning_tokens, images = bill.images,
       cost_nanousd = bill.cost_nanousd
  FROM job_bill($1) AS bill
 WHERE job.id = $1
RETURNING job.id, job.instance_id AS store, job.status, job.attempt, job.created_at, job.started_at,
          job.worker, job.input_tokens, job.output_tokens, job.reasoning_tokens, job.images,
          job.cost_nanousd;

-- name: job_states
-- Returns the current rows of jobs created since $1, in the order of their ends: metrics remembers
-- the latest ends only, and takes an older end for a repeat.
SELECT id, instance_id AS store, status, attempt, worker, created_at, started_at, finished_at,
       not_before, error, input_tokens, output_tokens, reasoning_tokens, images, cost_nanousd,
       (SELECT coalesce(sum(in_doubt), 0)::int FROM blog_steps WHERE job_id = id) AS in_doubt
  FROM blog_generations WHERE created_at > $1 ORDER BY finished_at NULLS LAST;
